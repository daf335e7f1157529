import mysql from "mysql2";
import type { Connection } from "mysql2/promise";
import type { QueryAnswer, QueryRequest } from "@platform/host-api";
import { RowBudget } from "../dedicated/row-budget.ts";
import type { Login } from "../dedicated/login.ts";
import { classify, withLogin } from "./login.ts";

/** Beyond the statement's own time: for the login and for hearing that it was ended. */
const marginMs = 5_000;
const statementTimeout = 1969;

interface Field {
  readonly name: string;
  readonly columnType?: number;
}

/** One statement; the session may only read if that is asked for, also after a commit that a statement implies. */
export async function query(login: Login, request: QueryRequest): Promise<QueryAnswer> {
  const startedAt = performance.now();
  try {
    return await withLogin(
      login,
      async (connection) => {
        await connection.query(`set session max_statement_time = ${request.timeoutMs / 1000}`);
        if (request.readOnly) await connection.query("set session transaction read only");
        const seen = await run(connection, request);
        return { ok: true, command: null, ...seen, ms: Math.round(performance.now() - startedAt) } as const;
      },
      request.timeoutMs + marginMs,
    );
  } catch (error) {
    if (!(error instanceof CutShort)) return failureOf(error);
    return { ok: true, command: null, ...error.seen, ms: Math.round(performance.now() - startedAt) };
  }
}

interface Seen {
  readonly columns: { name: string; type: string }[];
  readonly rows: unknown[][];
  readonly rowCount: number | null;
  readonly cutBy: "rows" | "bytes" | null;
}

/** A limit is reached: a failure of the session's work, so that its connection is broken off, not drained. */
class CutShort extends Error {
  readonly seen: Seen;
  constructor(seen: Seen) {
    super("the answer is cut short");
    this.seen = seen;
  }
}

/** Rows as they come: what does not fit is never held. */
function run(connection: Connection, request: QueryRequest) {
  const budget = new RowBudget(request);
  const { promise, resolve, reject } = Promise.withResolvers<Seen>();
  let columns: { name: string; type: string }[] = [];
  let changed: number | null = null;
  const seen = (): Seen => ({
    ...{ columns, rows: budget.rows, cutBy: budget.cutBy },
    rowCount: columns.length > 0 ? budget.rows.length : changed,
  });
  // The callback connection beneath: the promises of the library hold all rows.
  const raw = (connection as unknown as { connection: import("mysql2").Connection }).connection;
  raw
    .query({ sql: request.sql, values: [...request.params], rowsAsArray: true, typeCast: textOf })
    .on("fields", (fields: Field[] | undefined) => {
      columns = (fields ?? []).map(({ name, columnType }) => ({
        name,
        type: String(mysql.Types[columnType as never] ?? columnType ?? "").toLowerCase(),
      }));
    })
    .on("result", (row: unknown) => {
      if (Array.isArray(row)) {
        if (!budget.take([row])) {
          raw.pause();
          reject(new CutShort(seen()));
        }
      } else changed = (row as { affectedRows?: number }).affectedRows ?? null;
    })
    .on("error", reject)
    .on("end", () => resolve(seen()));
  return promise;
}

const asNumbers = new Set(["TINY", "SHORT", "LONG", "INT24", "FLOAT", "DOUBLE", "YEAR"]);

/** What JSON holds as it is; everything else as the server's own text, without loss. */
function textOf(field: { readonly type: string; string(): string | null }, next: () => unknown): unknown {
  return asNumbers.has(field.type) ? next() : field.string();
}

function failureOf(error: unknown): QueryAnswer {
  const { errno, sqlMessage, sqlState } = error as { errno?: number; sqlMessage?: string; sqlState?: string };
  if (sqlMessage === undefined) {
    const { reason, detail } = classify(error);
    const isLate = reason === "timeout";
    return {
      ...{ ok: false, reason: isLate ? "timeout" : "connection", code: null, message: detail },
      ...{ detail: null, hint: null, position: null },
    };
  }
  return {
    ...{ ok: false, reason: errno === statementTimeout ? "timeout" : "statement" },
    ...{ code: String(errno), message: sqlMessage, detail: sqlState ? `SQLSTATE ${sqlState}` : null },
    ...{ hint: null, position: null },
  };
}
