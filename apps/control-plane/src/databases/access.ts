import { databaseAccessRoutes as r, PlatformError } from "@platform/contract";
import { HostError, type QueryAnswer } from "@platform/host-api";
import { handler, serveTunnel, type Call, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { notReady, ownDatabase } from "./store.ts";

type Failed = Extract<QueryAnswer, { ok: false }>;
type Answered = Extract<QueryAnswer, { ok: true }>;

const why: Readonly<Record<Failed["reason"], string>> = {
  statement: "The server refused the statement",
  timeout: "The statement was ended at its time limit",
  connection: "No session could be had for it",
};

/** @throws PlatformError QUERY_FAILED */
function refused(answer: Failed): PlatformError {
  const { reason, code, message, detail, hint, position } = answer;
  return new PlatformError("QUERY_FAILED", `${why[reason]}: ${message}`, {
    details: { reason, engine_code: code, engine_message: message, detail, hint, position },
  });
}

function view({ columns, rows, rowCount, command, cutBy, ms }: Answered) {
  const seen = new Map<string, number>();
  const keys = columns.map(({ name }) => {
    const count = (seen.get(name) ?? 0) + 1;
    seen.set(name, count);
    return count === 1 ? name : `${name}_${count}`;
  });
  return {
    columns,
    rows: rows.map((row) => Object.fromEntries(keys.map((key, index) => [key, row[index]]))),
    row_count: rowCount,
    command,
    truncated: cutBy !== null,
    truncated_by: cutBy,
    duration_ms: ms,
  };
}

export function databaseAccessHandlers(platform: Platform): Handler[] {
  const running = async (call: Call) => {
    const row = await ownDatabase(platform.pool, call.caller, call.params["id"]!);
    if (row.state !== "running") throw notReady(row);
    return row;
  };
  return [
    handler(r.query, async (call) => {
      const row = await running(call as unknown as Call);
      if (row.engine === "redis")
        throw new PlatformError(
          "QUERY_UNSUPPORTED",
          "Redis has no query language. Use its URL, or a shell through the tunnel.",
          { details: { engine: row.engine } },
        );
      const { sql, params, read_only: readOnly, max_rows: maxRows, timeout_ms: timeoutMs } = call.body;
      const answer = await platform.host.queryDatabase(
        row.host_key,
        { sql, params, readOnly, maxRows, timeoutMs },
        call.signal,
      );
      if (!answer.ok) throw refused(answer);
      return view(answer);
    }),
    handler(r.tunnel, async (call) => {
      const row = await running(call as unknown as Call);
      const server = await platform.host.dialDatabase(row.host_key, call.signal).catch((error: unknown) => {
        if (error instanceof HostError) throw notReady(row);
        throw error;
      });
      await serveTunnel(call as unknown as Call, server);
    }),
  ];
}
