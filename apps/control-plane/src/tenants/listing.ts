import { PlatformError, type ListQuery } from "@platform/contract";
import { query, type Queryable } from "@platform/postgres";
import type { QueryResultRow } from "pg";
import type { Caller } from "../http/index.ts";

/** Collects SQL conditions with their parameters. */
export class Conditions {
  readonly values: unknown[] = [];
  readonly #parts: string[] = [];

  /** `$?` in the text stands for the value. */
  add(text: string, value: unknown): this {
    this.values.push(value);
    this.#parts.push(text.replaceAll("$?", `$${this.values.length}`));
    return this;
  }

  /** As `add`, with two values at `$1?` and `$2?`. */
  addPair(text: string, first: unknown, second: unknown): this {
    this.values.push(first, second);
    const last = this.values.length;
    this.#parts.push(text.replace("$1?", `$${last - 1}`).replace("$2?", `$${last}`));
    return this;
  }

  raw(text: string): this {
    this.#parts.push(text);
    return this;
  }

  get sql(): string {
    return this.#parts.length === 0 ? "true" : this.#parts.join(" and ");
  }
}

/** Tenant, the key's own workspace, and the filters that most lists share. */
export function ownedBy(caller: Caller, filter: Partial<ListQuery> = {}): Conditions {
  const conditions = new Conditions().add("tenant_id = $?", caller.tenantId);
  if (caller.workspaceId) conditions.add("workspace_id = $?", caller.workspaceId);
  if (caller.externalUserId) conditions.add("external_user_id = $?", caller.externalUserId);
  for (const name of ["workspace_id", "project_id"] as const)
    if (filter[name]) conditions.add(`${name}::text = $?`, filter[name]);
  for (const name of ["external_workspace_id", "external_user_id", "external_project_id"] as const) {
    if (filter[name]) conditions.add(`${name} = $?`, filter[name]);
  }
  return conditions;
}

interface Position {
  readonly created_at: Date;
  readonly id: string;
}

const encode = (row: Position) =>
  Buffer.from(JSON.stringify([row.created_at.toISOString(), row.id])).toString("base64url");

function decode(cursor: string): [string, string] {
  try {
    const [at, id] = JSON.parse(Buffer.from(cursor, "base64url").toString("utf8")) as [string, string];
    if (typeof id === "string" && !Number.isNaN(Date.parse(at))) return [at, id];
  } catch {
    // Falls through to the one refusal below: it does not matter how the text is broken.
  }
  throw new PlatformError("INVALID_FILTER", "cursor was not made by this API. Start again without it.");
}

/** One page, newest first, and the cursor of the next one. */
export async function page<T extends QueryResultRow & Position>(
  db: Queryable,
  table: string,
  conditions: Conditions,
  options: { limit: number; cursor?: string | undefined },
): Promise<{ rows: T[]; next_cursor?: string }> {
  if (options.cursor) {
    // JavaScript dates hold milliseconds, the column microseconds: compare on the coarser grain.
    const [at, id] = decode(options.cursor);
    conditions.addPair(
      "(date_trunc('milliseconds', created_at), id) < ($1?::timestamptz, $2?::uuid)",
      at,
      id,
    );
  }
  const rows = await query<T>(
    db,
    `select * from ${table} where ${conditions.sql}
     order by date_trunc('milliseconds', created_at) desc, id desc limit ${options.limit + 1}`,
    conditions.values,
  );
  return finish(rows, options.limit);
}

function finish<T extends Position>(rows: T[], limit: number): { rows: T[]; next_cursor?: string } {
  if (rows.length <= limit) return { rows };
  const kept = rows.slice(0, limit);
  return { rows: kept, next_cursor: encode(kept.at(-1)!) };
}
