import { timingSafeEqual, createHash } from "node:crypto";
import type { FastifyInstance, FastifyRequest } from "fastify";
import {
  ConsoleBatch,
  RequestLogEntry,
  type Route,
  type RouteUpdate,
  type WakeAnswer,
} from "@platform/edge-api";
import { PlatformError } from "@platform/contract";
import { query, queryOne } from "@platform/postgres";
import { z } from "zod";
import type { Platform } from "../platform.ts";
import { edgeBrands } from "../tenants/index.ts";
import { witnesses } from "./acknowledge.ts";

interface RouteRow {
  readonly hostname: string;
  readonly version: string;
  readonly tenant_id: string;
  readonly kind: Route["kind"];
  readonly target: Route["target"] | null;
  readonly deployment_id: string | null;
  readonly release_id: string | null;
  readonly sandbox_id: string | null;
}

const digest = (text: string) => createHash("sha256").update(text).digest();

/** @throws PlatformError UNAUTHENTICATED */
export function assertEdge(request: FastifyRequest, token: string): void {
  const given = request.headers.authorization?.replace(/^Bearer /, "") ?? "";
  if (!timingSafeEqual(digest(given), digest(token)))
    throw new PlatformError("UNAUTHENTICATED", "This address is for the platform's own programs.");
}

const toRoute = (row: RouteRow): Route => ({
  hostname: row.hostname,
  tenantId: row.tenant_id,
  kind: row.kind,
  target: row.target!,
  deploymentId: row.deployment_id,
  releaseId: row.release_id,
  sandboxId: row.sandbox_id,
});

async function updateAfter(platform: Platform, applied: number): Promise<RouteUpdate | null> {
  const newest = Number(
    (await queryOne<{ v: string }>(platform.pool, "select coalesce(max(version), 0) as v from routes"))!.v,
  );
  // An edge from another life of this database knows more than there is: start it afresh.
  const full = applied <= 0 || applied > newest;
  // Also where nothing was ever there: who got that told would ask at once again.
  if (newest === applied) return null;
  const rows = await query<RouteRow>(
    platform.pool,
    "select * from routes where version > $1 order by version",
    [full ? 0 : applied],
  );
  // A brand is large and seldom changes: it comes with the route of its tenant's API.
  const branded = rows.filter(({ kind }) => kind === "api").map((row) => row.tenant_id);
  return {
    version: newest,
    full,
    brands: await edgeBrands(platform.pool, full ? null : [...new Set(branded)]),
    routes: rows.filter((row) => row.target !== null).map(toRoute),
    removed: full ? [] : rows.filter((row) => row.target === null).map((row) => row.hostname),
    witnesses: witnesses(platform).map(({ address }) => address.url),
  };
}

const Poll = z.object({
  edge: z.string().min(1).max(100),
  applied: z.coerce.number().int().default(0),
  wait_ms: z.coerce.number().int().min(0).max(30_000).default(0),
});

/** What edges ask; on the control plane's own address only. */
export function registerEdgeRoutes(
  app: FastifyInstance,
  platform: Platform,
  token: string,
  hears: {
    readonly wake: (hostname: string) => Promise<WakeAnswer>;
    readonly console: (batches: ConsoleBatch[]) => Promise<void>;
  },
): void {
  app.get("/internal/edge/routes", async (request, reply) => {
    assertEdge(request, token);
    const poll = Poll.parse(request.query);
    // The time of the question, and not of the answer: the edge's lease runs from before it.
    await platform.pool.query(
      `insert into edges (id, applied) values ($1, $2) on conflict (id) do update set applied = excluded.applied, last_seen_at = now()`,
      [poll.edge, poll.applied],
    );
    platform.signals.announce("edge-applied");
    const gone = new AbortController();
    reply.raw.on("close", () => gone.abort());
    const update = await platform.signals.until(
      "routes",
      poll.wait_ms,
      async () => (await updateAfter(platform, poll.applied)) ?? undefined,
      gone.signal,
    );
    return update ? reply.send(update) : reply.status(204).send();
  });

  app.post("/internal/edge/wake", async (request) => {
    assertEdge(request, token);
    return hears.wake(z.object({ hostname: z.string() }).parse(request.body).hostname);
  });

  app.post("/internal/edge/console", async (request) => {
    assertEdge(request, token);
    await hears.console(z.array(ConsoleBatch).max(100).parse(request.body));
    return {};
  });

  app.post("/internal/edge/requests", async (request) => {
    assertEdge(request, token);
    const entries = z.array(RequestLogEntry).max(1_000).parse(request.body);
    const column = <T>(pick: (entry: RequestLogEntry) => T) => entries.map(pick);
    await platform.pool.query(
      `insert into request_logs (at, request_id, deployment_id, release_id, sandbox_id, hostname, method, path, status, duration_ms, bytes, failed_release_id)
       select * from unnest($1::timestamptz[], $2::text[], $3::uuid[], $4::uuid[], $5::uuid[], $6::text[], $7::text[], $8::text[], $9::int[], $10::float8[], $11::bigint[], $12::uuid[])`,
      [
        column((e) => e.at),
        column((e) => e.requestId),
        column((e) => e.deploymentId),
        column((e) => e.releaseId),
        column((e) => e.sandboxId),
        column((e) => e.hostname),
        column((e) => e.method),
        column((e) => e.path),
        column((e) => e.status),
        column((e) => e.durationMs),
        column((e) => e.bytes),
        column((e) => e.failedReleaseId),
      ],
    );
    await platform.pool.query(
      "update deployments set last_used_at = now() where id = any($1) and (settings->>'scale_to_zero')::boolean",
      [[...new Set(column((e) => e.deploymentId).filter((id) => id !== null))]],
    );
    const used = [...new Set(column((e) => e.sandboxId).filter((id) => id !== null))];
    if (used.length > 0)
      await platform.pool.query("update sandboxes set last_used_at = now() where id = any($1)", [used]);
    return {};
  });
}

/** Keeps the log of requests bounded: a week, and the newest million rows. */
export async function trimRequestLogs(platform: Platform): Promise<void> {
  await platform.pool.query(
    "delete from request_logs where at < now() - interval '7 days' or seq < (select max(seq) - 1000000 from request_logs)",
  );
}
