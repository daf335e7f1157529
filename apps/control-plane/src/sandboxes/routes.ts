import { PlatformError, notFound, sandboxRoutes as r } from "@platform/contract";
import { query, queryOne } from "@platform/postgres";
import { attachDatabase } from "../databases/index.ts";
import { effectiveEgress } from "../egress/index.ts";
import { pointPreviews } from "../edges/index.ts";
import { streamEvents } from "../events/index.ts";
import { handler, openEventStream, type Call, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { Conditions, ownedBy, tenantById } from "../tenants/index.ts";
import { guestProblem, liveSandbox, sandboxFailed, settledSandbox } from "./access.ts";
import { createSandbox, nameProblem } from "./create.ts";
import { forkSandbox, recoverSandbox } from "./fork.ts";
import {
  canPause,
  loadSandbox,
  ownSandbox,
  readinessComponents,
  sandboxView,
  want,
  type SandboxRow,
} from "./store.ts";

const readyTimeoutMs = 30_000;
const settleMs = 60_000;

export function sandboxHandlers(platform: Platform): Handler[] {
  const { pool } = platform;
  const view = async (row: SandboxRow) =>
    sandboxView(platform, (await tenantById(pool, row.tenant_id))!, row);
  const viewById = async (id: string) => view((await loadSandbox(pool, id))!);

  return [
    handler(r.create, async (call) => {
      const row = await createSandbox(platform, call, call.body);
      return view(await waitAsAsked(platform, call, row));
    }),
    handler(r.list, async ({ caller, query: filter }) => listSandboxes(platform, caller, filter)),
    handler(r.byName, async ({ caller, params }) => {
      const row = await queryOne<SandboxRow>(
        pool,
        `select * from sandboxes where ${ownedBy(caller).sql} and state <> 'destroyed' and name = $${ownedBy(caller).values.length + 1}`,
        [...ownedBy(caller).values, params["name"]],
      );
      if (!row) throw notFound(`A sandbox named ${params["name"]}`);
      return view(row);
    }),
    handler(r.get, async ({ caller, params }) => view(await ownSandbox(pool, caller, params["id"]!))),
    handler(r.update, async ({ caller, params, body }) => {
      const row = await ownSandbox(pool, caller, params["id"]!);
      await updateSandbox(platform, row, body);
      return viewById(row.id);
    }),
    handler(r.updateTags, async ({ caller, params, body }) => {
      const row = await ownSandbox(pool, caller, params["id"]!);
      await want(platform, row.id, { tags: JSON.stringify(body.tags) });
      return viewById(row.id);
    }),
    handler(r.remove, async ({ caller, params }) => {
      const row = await ownSandbox(pool, caller, params["id"]!);
      await destroySandbox(platform, row.id);
      return { id: row.id, state: "destroyed", deleted: true };
    }),
    handler(r.pause, async ({ caller, params }) =>
      pauseOne(platform, await ownSandbox(pool, caller, params["id"]!)),
    ),
    handler(r.resume, async ({ caller, params }) => {
      const { row } = await liveSandbox(platform, caller, params["id"]!);
      return viewById(row.id);
    }),
    handler(r.stop, async ({ caller, params }) => {
      const row = await ownSandbox(pool, caller, params["id"]!);
      if (row.persistent) return pauseOne(platform, row);
      await destroySandbox(platform, row.id);
      return { id: row.id, state: "destroyed" };
    }),
    handler(r.extend, async ({ caller, params, body }) => {
      const row = await ownSandbox(pool, caller, params["id"]!);
      const seconds = body?.timeout_sec ?? row.timeout_sec;
      await want(platform, row.id, {
        timeout_sec: seconds,
        expires_at: new Date(Date.now() + seconds * 1000),
      });
      return viewById(row.id);
    }),
    handler(r.fork, async (call) => {
      const rows = await forkSandbox(platform, call);
      if (call.body?.count === undefined) return view(rows[0]!);
      return {
        forked_from: rows[0]!.restored_from,
        count: rows.length,
        forks: await Promise.all(rows.map(view)),
      };
    }),
    handler(r.recover, async (call) => {
      const row = await recoverSandbox(platform, call);
      return { ...(await view(row)), restored_from: row.restored_from };
    }),
    handler(r.readiness, async ({ caller, params }) =>
      readinessView(await ownSandbox(pool, caller, params["id"]!)),
    ),
    handler(r.readinessStream, async ({ caller, params, reply }) => {
      const row = await ownSandbox(pool, caller, params["id"]!);
      const stream = openEventStream(reply);
      try {
        const ready = await settledSandbox(
          platform,
          row.id,
          120_000,
          (now) => now.ready && now.state !== "provisioning",
          stream.signal,
        );
        if (ready) stream.send("ready", { ...readinessView(ready) });
        else stream.send("timeout", { ready: false, state: row.state });
      } catch (error) {
        const problem =
          error instanceof PlatformError
            ? error
            : new PlatformError("INTERNAL", "Readiness could not be read. Retry.");
        stream.send("timeout", { ready: false, error: { code: problem.code, message: problem.message } });
      }
      stream.close();
    }),
    handler(r.attachDatabase, async (call) => {
      const row = await ownSandbox(pool, call.caller, call.params["id"]!);
      return attachDatabase(platform, call.caller, call.body.database_id, call.body.env, {
        type: "sandbox",
        id: row.id,
      });
    }),
    handler(r.events, async ({ caller, params, reply, request }) => {
      const row = await ownSandbox(pool, caller, params["id"]!);
      const last = Number(request.headers["last-event-id"]);
      await streamEvents(platform, reply, {
        tenantId: caller.tenantId,
        resourceId: row.id,
        afterSeq: Number.isInteger(last) && last > 0 ? last : null,
      });
    }),
    handler(r.ports, async ({ caller, params }) => {
      const { row, guest } = await liveSandbox(platform, caller, params["id"]!);
      const ports = await guest.ports().catch((error: unknown) => {
        throw guestProblem(error, "The list of ports");
      });
      return {
        sandbox_id: row.id,
        count: ports.length,
        ports: ports.map((port) => ({
          protocol: "tcp",
          state: "listen",
          address: port.address,
          port: port.port,
          loopback_only: port.loopbackOnly,
          process: port.pid === null ? null : { name: port.process, pid: port.pid },
        })),
      };
    }),
  ];
}

function readinessView(row: SandboxRow) {
  const ready = row.ready && row.state === "running";
  const components = Object.fromEntries(
    readinessComponents.map((name) => [name, row.readiness?.[name] ?? { status: "pending" }]),
  );
  const status =
    row.state === "error" ? "failed" : ready ? "ready" : row.state === "paused" ? "paused" : "pending";
  return { ready, state: row.state, status, readiness: { status, components } };
}

/** `wait=N` holds the answer up to N seconds, `wait=true` up to 30 and then refuses. */
async function waitAsAsked(
  platform: Platform,
  call: Call<typeof r.create>,
  row: SandboxRow,
): Promise<SandboxRow> {
  const asked = call.query?.wait ?? (call.body.wait === undefined ? undefined : String(call.body.wait));
  if (asked === undefined || asked === "false" || asked === "0") return row;
  const strict = asked === "true";
  const seconds = strict ? readyTimeoutMs / 1000 : Math.min(120, Math.max(2, Number(asked) || 30));
  const ready = await settledSandbox(
    platform,
    row.id,
    seconds * 1000,
    (now) => now.ready && now.state === "running",
  ).catch(async (error: unknown) => {
    const now = await loadSandbox(platform.pool, row.id);
    if (now?.state === "error" && strict) throw sandboxFailed(now);
    if (now?.state === "error") return now;
    throw error;
  });
  if (!strict) call.reply.header("x-miosa-wait", ready?.ready ? "ready" : "timeout");
  if (!ready && strict) {
    throw new PlatformError(
      "SANDBOX_READY_TIMEOUT",
      `The sandbox ${row.id} was not ready within 30 seconds. It goes on starting: poll GET /sandboxes/${row.id}.`,
      {
        details: { sandbox_id: row.id },
        retryAfterMs: 2000,
      },
    );
  }
  return ready ?? (await loadSandbox(platform.pool, row.id))!;
}

async function updateSandbox(
  platform: Platform,
  row: SandboxRow,
  body: Record<string, unknown>,
): Promise<void> {
  const set: Record<string, unknown> = {};
  for (const name of ["name", "slug", "always_on", "idle_timeout_sec"])
    if (body[name] !== undefined) set[name] = body[name];
  if (body["tags"] !== undefined) set["tags"] = JSON.stringify(body["tags"]);
  if (body["metadata"] !== undefined) set["metadata"] = { ...row.metadata, ...(body["metadata"] as object) };
  if (body["timeout_sec"] !== undefined) {
    set["timeout_sec"] = body["timeout_sec"];
    set["expires_at"] = new Date(Date.now() + (body["timeout_sec"] as number) * 1000);
  }
  try {
    await want(platform, row.id, set);
  } catch (error) {
    throw nameProblem(error, body["name"] as string | undefined, body["slug"] as string | undefined);
  }
  const metadata = set["metadata"] as Record<string, unknown> | undefined;
  if (metadata && metadata["browser_console"] !== row.metadata["browser_console"])
    if (row.state === "running" || row.state === "paused")
      await pointPreviews(platform, row, row.state === "paused" ? "wake" : "boxes");
  if (metadata?.["network_policy"] !== undefined && (row.state === "running" || row.state === "paused")) {
    await platform.host.patchBox(row.box_key, {
      egress: await effectiveEgress(platform.pool, { ...row, metadata }),
    });
  }
}

export async function pauseOne(platform: Platform, row: SandboxRow) {
  if (row.state === "error") throw sandboxFailed(row);
  if (row.state === "running" && !canPause(row))
    throw new PlatformError(
      "CONFLICT",
      "The machine of this sandbox cannot hold it still, as its host is not root there. Leave it running, or take a snapshot and delete it.",
      { details: { missing: row.isolation?.missing } },
    );
  await want(platform, row.id, { desired: "paused" });
  const paused = await settledSandbox(platform, row.id, settleMs, (now) => now.state === "paused");
  if (!paused) throw new PlatformError("CONFLICT", "The sandbox could not be paused in time. Retry.");
  return { id: row.id, state: "paused" };
}

export async function destroySandbox(platform: Platform, id: string): Promise<void> {
  await want(platform, id, { desired: "destroyed" });
  const gone = await platform.signals.until(`sandbox:${id}`, settleMs, async () => {
    const row = await loadSandbox(platform.pool, id);
    return !row || row.state === "destroyed" ? true : undefined;
  });
  if (!gone)
    throw new PlatformError(
      "HOST_UNAVAILABLE",
      "The sandbox is still being removed. It will be; ask again to see.",
      { retryAfterMs: 5000 },
    );
}

type Filter = {
  page?: number;
  limit?: number;
  state?: string | undefined;
  search?: string | undefined;
  template_id?: string | undefined;
  sort?: string | undefined;
  tags?: string | undefined;
  [more: string]: unknown;
};

export function filtered(caller: Call["caller"], filter: Filter): Conditions {
  const conditions = ownedBy(caller, filter);
  if (filter.state === "destroyed") conditions.raw("state = 'destroyed'");
  else conditions.raw("state <> 'destroyed'");
  if (filter.state && filter.state !== "destroyed") conditions.add("state = $?", filter.state);
  if (filter.template_id) conditions.add("template_id = $?", filter.template_id);
  if (filter.search)
    conditions.add(
      "(name ilike '%' || $? || '%' or slug ilike '%' || $? || '%')",
      filter.search.replace(/[%_\\]/g, "\\$&"),
    );
  for (const tag of filter.tags?.split(",").filter(Boolean) ?? []) conditions.add("tags ? $?", tag);
  for (const [name, value] of Object.entries(filter)) {
    const tag = /^tags\[(.+)\]$/.exec(name)?.[1];
    if (tag) conditions.add("tags @> $?::jsonb", JSON.stringify({ [tag]: String(value) }));
  }
  return conditions;
}

async function listSandboxes(
  platform: Platform,
  caller: Call["caller"],
  filter: Filter & { page: number; limit: number },
) {
  const conditions = filtered(caller, filter);
  const order =
    filter.sort === "name-asc"
      ? "name asc nulls last, id"
      : filter.sort === "created-asc"
        ? "created_at asc, id"
        : "created_at desc, id";
  const rows = await query<SandboxRow>(
    platform.pool,
    `select * from sandboxes where ${conditions.sql} order by ${order} limit ${filter.limit} offset ${(filter.page - 1) * filter.limit}`,
    conditions.values,
  );
  const counts = await query<{ state: string; count: string; memory: string }>(
    platform.pool,
    `select state, count(*) as count, coalesce(sum(memory_mb), 0) as memory from sandboxes where ${conditions.sql} group by state`,
    conditions.values,
  );
  const tenant = (await tenantById(platform.pool, caller.tenantId))!;
  const total = counts.reduce((sum, row) => sum + Number(row.count), 0);
  const pages = Math.ceil(total / filter.limit);
  return {
    data: rows.map((row) => sandboxView(platform, tenant, row)),
    meta: {
      page: filter.page,
      limit: filter.limit,
      total,
      total_pages: pages,
      has_next_page: filter.page < pages,
      state_counts: Object.fromEntries(counts.map((row) => [row.state, Number(row.count)])),
      reserved_memory_mb: counts
        .filter((row) => row.state === "running")
        .reduce((sum, row) => sum + Number(row.memory), 0),
    },
  };
}
