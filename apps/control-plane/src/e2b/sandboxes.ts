import { query } from "@platform/postgres";
import { destroySandbox, type SandboxRow } from "../sandboxes/index.ts";
import { ownedBy } from "../tenants/index.ts";
import { createFor } from "./create.ts";
import { ClientProblem } from "./problem.ts";
import type { ClientCall, ClientRoute } from "./route.ts";
import { clientSandbox, detailView, listedView, loadClientRow } from "./store.ts";

const states = { running: ["provisioning", "running"], paused: ["paused"] } as const;
const defaultTimeoutSec = { v1: 15, v2: 300 };
const pageLimit = 100;

/** Key and value are encoded each, then as a query, then as a part of one. */
function metadataFilter(text: string | undefined): Record<string, string> {
  const decode = (part: string) => {
    try {
      return decodeURIComponent(part);
    } catch (cause) {
      throw new ClientProblem(400, "metadata: is not encoded as a query.", { cause });
    }
  };
  return Object.fromEntries([...new URLSearchParams(text ?? "")].map((pair) => pair.map(decode)));
}

interface Position {
  readonly at: string;
  readonly id: string;
}

export const encodeToken = (position: Position): string =>
  Buffer.from(JSON.stringify([position.at, position.id])).toString("base64url");

/** @throws ClientProblem 400 */
export function decodeToken(token: string | undefined): Position | null {
  if (!token) return null;
  try {
    const [at, id] = JSON.parse(Buffer.from(token, "base64url").toString("utf8")) as [unknown, unknown];
    if (typeof at === "string" && !Number.isNaN(Date.parse(at)) && /^[0-9a-f-]{36}$/.test(String(id)))
      return { at, id: String(id) };
  } catch {
    // Whatever it was, it is none of ours.
  }
  throw new ClientProblem(400, "nextToken: is not a token of this list.");
}

export function limitOf(text: string | undefined): number {
  if (text === undefined || text === "") return pageLimit;
  const limit = Number(text);
  if (!Number.isInteger(limit) || limit < 1 || limit > pageLimit)
    throw new ClientProblem(400, `limit: is a number from 1 to ${pageLimit}.`);
  return limit;
}

type Listed = SandboxRow & { readonly at: string; readonly client_template: string | null };

async function list(call: ClientCall, paged: boolean) {
  const { query: filter, platform } = call;
  const wanted = (filter["state"] ?? (paged ? "running,paused" : "running")).split(",");
  const unknown = wanted.find((state) => !(state in states));
  if (unknown !== undefined)
    throw new ClientProblem(400, `state: "${unknown}" is neither running nor paused.`);
  const conditions = ownedBy(call.caller).raw("desired <> 'destroyed'");
  const running = await countOf(call, [...states.running]);
  conditions.add(
    "state = any($?)",
    wanted.flatMap((state) => states[state as keyof typeof states]),
  );
  const metadata = metadataFilter(filter["metadata"]);
  if (Object.keys(metadata).length > 0) conditions.add("metadata @> $?::jsonb", JSON.stringify(metadata));
  if (filter["template"]) conditions.add("coalesce(client_template, template_id) = $?", filter["template"]);
  if (filter["startedAfter"]) {
    const after = new Date(filter["startedAfter"]);
    if (Number.isNaN(after.getTime())) throw new ClientProblem(400, "startedAfter: is no time.");
    conditions.add("created_at > $?", after);
  }
  const ascending = filter["order"] === "asc";
  const from = decodeToken(filter["nextToken"]);
  if (from)
    conditions.addPair(
      `(created_at, id) ${ascending ? ">" : "<"} ($1?::timestamptz, $2?::uuid)`,
      from.at,
      from.id,
    );
  const limit = paged ? limitOf(filter["limit"]) : 1000;
  const order = ascending ? "asc" : "desc";
  const rows = await query<Listed>(
    platform.pool,
    `select * from (select s.*, s.created_at::text as at, e.template_id as client_template from sandboxes s
       left join e2b_sandboxes e on e.sandbox_id = s.id) as s
     where ${conditions.sql} order by created_at ${order}, id ${order} limit ${limit + 1}`,
    conditions.values,
  );
  const page = rows.slice(0, limit);
  if (paged) {
    call.reply.header("x-total-running", running);
    const last = page.at(-1);
    if (rows.length > limit && last)
      call.reply.header("x-next-token", encodeToken({ at: last.at, id: last.id }));
  }
  return page.map((row) => listedView(row, { template_id: row.client_template ?? row.template_id }));
}

async function countOf(call: ClientCall, of: readonly string[]): Promise<number> {
  const conditions = ownedBy(call.caller).raw("desired <> 'destroyed'").add("state = any($?)", of);
  const rows = await query<{ count: string }>(
    call.platform.pool,
    `select count(*) as count from sandboxes where ${conditions.sql}`,
    conditions.values,
  );
  return Number(rows[0]!.count);
}

export const sandboxRoutes: readonly ClientRoute[] = [
  {
    method: "POST",
    path: "/sandboxes",
    scope: "sandboxes:create",
    status: 201,
    handle: (call) => createFor(call, defaultTimeoutSec.v1, false),
  },
  {
    method: "POST",
    path: "/v2/sandboxes",
    scope: "sandboxes:create",
    status: 201,
    handle: (call) => createFor(call, defaultTimeoutSec.v2, true),
  },
  { method: "GET", path: "/sandboxes", scope: "sandboxes:read", handle: (call) => list(call, false) },
  { method: "GET", path: "/v2/sandboxes", scope: "sandboxes:read", handle: (call) => list(call, true) },
  {
    method: "GET",
    path: "/sandboxes/{sandboxID}",
    scope: "sandboxes:read",
    handle: async (call) => {
      const row = await clientSandbox(call);
      return detailView(call, row, await loadClientRow(call.platform.pool, row));
    },
  },
  {
    method: "DELETE",
    path: "/sandboxes/{sandboxID}",
    scope: "sandboxes:write",
    status: 204,
    handle: async (call) => destroySandbox(call.platform, (await clientSandbox(call)).id),
  },
];
