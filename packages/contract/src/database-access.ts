import { z } from "zod";
import { defineRoute } from "./route.ts";

/** Without a limit of its own a statement is for looking, not for moving data: for that there is the URL. */
export const DatabaseQuery = z.object({
  sql: z.string().min(1).max(100_000),
  params: z.unknown().array().max(1_000).default([]).describe("Values of $1, $2 … or ?"),
  read_only: z.boolean().default(false).describe("The server itself refuses to write"),
  max_rows: z.int().min(1).max(10_000).default(1_000),
  timeout_ms: z.int().min(100).max(60_000).default(10_000),
});
export const DatabaseQueryResult = z.looseObject({
  columns: z.object({ name: z.string(), type: z.string() }).array(),
  rows: z.record(z.string(), z.unknown()).array().describe("By column; a second column of a name is name_2"),
  row_count: z.number().nullable().describe("Rows sent, or those changed"),
  command: z.string().nullable(),
  truncated: z.boolean(),
  truncated_by: z.enum(["rows", "bytes"]).nullable(),
  duration_ms: z.number(),
});

const tag = "Databases";
export const databaseAccessRoutes = {
  query: defineRoute({
    id: "queryDatabase",
    method: "POST",
    path: "/databases/:id/query",
    summary: "Run one SQL statement with the issued login",
    tag,
    envelope: "data",
    scope: "databases:write",
    body: DatabaseQuery,
    response: DatabaseQueryResult,
    problems: ["DATABASE_NOT_READY", "QUERY_FAILED", "QUERY_UNSUPPORTED"],
  }),
  tunnel: defineRoute({
    id: "openDatabaseTunnel",
    method: "GET",
    path: "/databases/:id/tunnel",
    summary: "WebSocket whose binary frames are the bytes of a connection to the database's server",
    tag,
    envelope: "raw",
    scope: "databases:write",
    stream: true,
    websocket: true,
    problems: ["UPGRADE_REQUIRED", "DATABASE_NOT_READY"],
  }),
};
