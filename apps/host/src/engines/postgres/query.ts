import { DatabaseError, types } from "pg";
import Cursor from "pg-cursor";
import type { QueryAnswer, QueryRequest } from "@platform/host-api";
import { withLogin, classify } from "./login.ts";
import { RowBudget } from "../dedicated/row-budget.ts";
import type { Login } from "../dedicated/login.ts";

const rowsAtOnce = 100;
/** Beyond the statement's own time: for the login and for hearing that it was ended. */
const marginMs = 5_000;
const namesByOid = new Map(Object.entries(types.builtins).map(([name, oid]) => [oid, name.toLowerCase()]));
/** What JSON holds as it is; everything else comes as the server's own text, without loss. */
const parsed = new Set<number>([
  ...[types.builtins.BOOL, types.builtins.INT2, types.builtins.INT4, types.builtins.FLOAT4],
  ...[types.builtins.FLOAT8, types.builtins.JSON, types.builtins.JSONB],
]);
const texts = {
  getTypeParser: (oid: number, format?: "text" | "binary") =>
    parsed.has(oid) ? types.getTypeParser(oid, format as never) : (value: string) => value,
};

interface Result {
  readonly command: string | null;
  readonly rowCount: number | null;
  readonly fields?: readonly { readonly name: string; readonly dataTypeID: number }[];
}

/**
 * One statement, by the extended protocol, which takes no second one. A statement that may only read runs in a
 * transaction that the server itself keeps from writing.
 */
export async function query(login: Login, request: QueryRequest): Promise<QueryAnswer> {
  const startedAt = performance.now();
  try {
    return await withLogin(
      login,
      async (client) => {
        await client.query(`set statement_timeout = ${request.timeoutMs}`);
        if (request.readOnly) await client.query("begin transaction read only");
        const cursor = client.query(
          new Cursor<unknown[]>(request.sql, [...request.params], { rowMode: "array", types: texts }),
        );
        const budget = new RowBudget(request);
        let result: Result = { command: null, rowCount: null };
        for (;;) {
          const [rows, now] = await read(cursor, Math.min(rowsAtOnce, budget.rowsLeft + 1));
          // Of a cursor that is at its end already nothing is told again.
          result = now ?? result;
          if (!budget.take(rows) || rows.length === 0) break;
        }
        await cursor.close();
        const columns = (result.fields ?? []).map(({ name, dataTypeID }) => ({
          name,
          type: namesByOid.get(dataTypeID) ?? String(dataTypeID),
        }));
        return {
          ok: true,
          command: result.command,
          columns,
          rows: budget.rows,
          rowCount: columns.length > 0 ? budget.rows.length : result.rowCount,
          cutBy: budget.cutBy,
          ms: Math.round(performance.now() - startedAt),
        } as const;
      },
      request.timeoutMs + marginMs,
    );
  } catch (error) {
    return failureOf(error);
  }
}

const read = (cursor: Cursor<unknown[]>, most: number) =>
  new Promise<[unknown[][], Result | undefined]>((resolve, reject) =>
    cursor.read(most, (error: Error | null | undefined, rows: unknown[][], result: unknown) =>
      error ? reject(error) : resolve([rows, result as Result | undefined]),
    ),
  );

const statementTimeout = "57014";

function failureOf(error: unknown): QueryAnswer {
  if (!(error instanceof DatabaseError)) {
    const { reason, detail } = classify(error);
    const isLate = reason === "timeout";
    return {
      ...{ ok: false, reason: isLate ? "timeout" : "connection", code: null, message: detail },
      ...{ detail: null, hint: null, position: null },
    };
  }
  const { code = null, message, detail = null, hint = null, position } = error;
  return {
    ...{ ok: false, reason: code === statementTimeout ? "timeout" : "statement", code, message },
    ...{ detail, hint, position: position === undefined ? null : Number(position) },
  };
}
