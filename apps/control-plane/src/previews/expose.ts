import { createHash, randomBytes } from "node:crypto";
import { faultPoint } from "@platform/daemon";
import { PlatformError, type ProbeRecord } from "@platform/contract";
import type { ProbeResult } from "@platform/guest-protocol";
import { queryOne, transaction } from "@platform/postgres";
import { acknowledged, pointPreviews, removeRoutes, routePreviews } from "../edges/index.ts";
import { recordIn } from "../events/index.ts";
import { derivedId, type Call } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { assertAllowed, subjectOf } from "../policies/index.ts";
import { guestProblem, liveSandbox, type SandboxRow } from "../sandboxes/index.ts";
import { previewHostname, publicUrl, tenantById } from "../tenants/index.ts";
import { dialBoxPort } from "@platform/host-api";
import { answersNoUpgrade, probeThroughEdge } from "./probe.ts";

export interface PreviewRow {
  readonly id: string;
  readonly tenant_id: string;
  readonly sandbox_id: string;
  readonly port: number;
  readonly is_primary: boolean;
  readonly name: string | null;
  readonly visibility: string;
  /** Token of a private preview, and its hash as the edges know it. */
  readonly access_sealed: Buffer | null;
  readonly access_sha256: string | null;
  readonly hostname: string;
  readonly url: string;
  readonly probe: ProbeRecord | null;
  /** Whether its pages are listened to; null: as the sandbox says. */
  readonly console: boolean | null;
  readonly expires_at: Date | null;
  readonly created_at: Date;
}

const standardWaitMs = 20_000;
const edgeWaitMs = 10_000;
/** A server that answered before may take this long again: some compile a page per request. */
const answerMs = 10_000;
/** How long a server that is gone may take to come back by itself. */
const returnMs = 500;

const explanations: Record<string, (port: number) => string> = {
  not_listening: (port) =>
    `Nothing listens on port ${port} in the sandbox. Start the server, then expose again.`,
  bound_to_loopback: (port) =>
    `The server on port ${port} is bound to 127.0.0.1 and cannot be reached from outside the sandbox. Bind it to 0.0.0.0 (for many dev servers: --host 0.0.0.0).`,
  no_http_answer: (port) =>
    `Something listens on port ${port} but does not answer an HTTP request. Check that it is an HTTP server and not stuck at start.`,
  process_exited: (port) =>
    `The process that should listen on port ${port} exited. Its last lines are in details.evidence.`,
  http_error: (port) =>
    `The server on port ${port} answers with an error. Its status is in details.evidence.`,
  edge_not_reached: (port) =>
    `The server on port ${port} answers inside the sandbox, but not through its public address. Retry; if it stays, the server may close connections early.`,
  upgrade_not_passed: (port) =>
    `The server on port ${port} answers WebSocket upgrades inside the sandbox, but not through its public address. Retry; if it stays, live reload would not work.`,
};

export function portNotReachable(
  port: number,
  reason: string,
  details: Record<string, unknown>,
): PlatformError {
  const retryable =
    reason === "not_listening" || reason === "no_http_answer" || reason === "edge_not_reached";
  const text = (explanations[reason] ?? explanations["not_listening"]!)(port);
  return new PlatformError("PORT_NOT_REACHABLE", text, {
    details: { reason, port, ...details },
    ...(retryable ? { retryAfterMs: 1000 } : {}),
  });
}

interface Wanted {
  readonly port: number | undefined;
  readonly title?: string | undefined;
  readonly waitMs?: number | undefined;
  readonly path?: string | undefined;
  readonly visibility?: string | undefined;
  readonly ttlSeconds?: number | undefined;
  readonly console?: boolean | undefined;
}

/**
 * The service whose end explains that nothing listens on a port: the one that names it, else the only
 * one there is, if it names no other port. A crash of any other one explains nothing.
 */
export function serviceBehind(
  port: number,
  row: Pick<SandboxRow, "services">,
  running: readonly { readonly name: string; readonly status: string; readonly command: string }[],
): string | null {
  const declared = row.services.find((one) => one.port === port);
  if (declared) return declared.name;
  const alive = running.filter((one) => one.status !== "stopped");
  const named = alive.filter((one) => portsIn(one.command).includes(port));
  if (named.length === 1) return named[0]!.name;
  const [only, ...more] = alive;
  if (!only || more.length > 0 || portsIn(only.command).length > 0) return null;
  const other = row.services.find((one) => one.name === only.name)?.port;
  return other === undefined ? only.name : null;
}

/** Numbers in a command that can be ports: `--port 3000`, `PORT=3000`, `:3000`. */
const portsIn = (command: string): number[] =>
  [...command.matchAll(/(?:port[= ]+|-p[= ]*|:)(\d{2,5})\b/gi)].map((found) => Number(found[1]));

/** Without a port: the one named at creation, else the only port that listens. */
async function portOf(
  call: Call,
  row: SandboxRow,
  wanted: Wanted,
  ports: () => Promise<{ port: number; loopbackOnly: boolean }[]>,
): Promise<number> {
  if (wanted.port !== undefined) return wanted.port;
  if (row.readiness_probe) return row.readiness_probe.port;
  const named = row.services.find((service) => service.port !== undefined)?.port;
  if (named !== undefined) return named;
  const listening = [...new Set((await ports()).map((one) => one.port))];
  if (listening.length === 1) return listening[0]!;
  throw new PlatformError(
    "PORT_NOT_REACHABLE",
    listening.length === 0
      ? "Nothing listens in the sandbox. Start the server, then expose again, best with its port."
      : `Several ports listen (${listening.join(", ")}). Say which one with port.`,
    {
      details: {
        reason: listening.length === 0 ? "not_listening" : "ambiguous",
        ports: listening,
        sandbox_id: call.params["id"],
      },
      ...(listening.length === 0 ? { retryAfterMs: 1000 } : {}),
    },
  );
}

/**
 * Proves a port three times (in the guest, through the edge by public host name, and with a WebSocket
 * upgrade) and only then gives its URL. The same port gives the same id and URL for the sandbox's life.
 *
 * @throws PlatformError PORT_NOT_REACHABLE with `details.reason`
 */
export async function expose(
  platform: Platform,
  call: Call,
  wanted: Wanted,
): Promise<{ preview: PreviewRow; row: SandboxRow }> {
  const { row, guest } = await liveSandbox(platform, call.caller, call.params["id"]!);
  await assertAllowed(platform.pool, subjectOf(row), "port_forwarding_enabled");
  const port = await portOf(call, row, wanted, () => guest.ports());
  const timeoutMs = wanted.waitMs ?? standardWaitMs;
  const services = await guest.services.list().catch(() => []);
  const name = serviceBehind(port, row, services);
  const service = name === null ? {} : { service: name };
  const path = wanted.path ?? "/";
  const inGuest = await guest
    .probe(port, { path, timeoutMs, ...service }, call.signal)
    .catch((error: unknown) => {
      throw guestProblem(error, `Port ${port}`);
    });
  if (!inGuest.ok)
    throw portNotReachable(port, inGuest.reason ?? "not_listening", {
      evidence: inGuest.evidence,
      http_status: inGuest.httpStatus,
      waited_ms: Math.round(inGuest.waitedMs),
    });
  faultPoint("control-plane.preview.after-guest-probe");
  const preview = await routePreview(platform, call, row, port, wanted);
  const again = (forMs: number) =>
    guest.probe(port, { path, timeoutMs: forMs, ...service }).catch(() => null);
  const outside = await probeThroughEdge(
    { url: platform.settings.edgeUrl, publicPort: platform.settings.publicPort },
    preview.hostname,
    withToken(platform, preview, path),
    edgeWaitMs,
    async () => isGone(await again(returnMs)),
    () =>
      answersNoUpgrade(
        () => dialBoxPort(platform.host.address, row.box_key, port, AbortSignal.timeout(edgeWaitMs)),
        preview.hostname,
        path,
      ),
  );
  // Once more inside, for every outcome: a server that answered and then died must not leave with a URL,
  // and where the edge saw a failure, the server's own state is the better explanation.
  const at = new Date();
  const still = await again(outside.edge.ok && outside.websocket.ok ? answerMs : returnMs);
  const reason = refusalOf(outside, still);
  if (reason !== null) {
    await forgetUnproved(platform, preview);
    throw portNotReachable(port, reason, {
      ...outside,
      ...(still?.ok ? {} : { evidence: still?.evidence ?? {} }),
    });
  }
  const proved = await storeProof(platform, preview, at, inGuest, outside);
  if (!proved.is_primary) await alsoStable(platform, proved, row);
  return { preview: proved, row };
}

/** Reading a private preview takes its token, also for us. */
export function withToken(platform: Platform, preview: PreviewRow, path: string): string {
  if (!preview.access_sealed) return path;
  return `${path}${path.includes("?") ? "&" : "?"}ms=${platform.seal.open(preview.access_sealed)}`;
}

/** Null when every look succeeded. */
function refusalOf(
  outside: Pick<ProbeRecord, "edge" | "websocket">,
  still: ProbeResult | null,
): string | null {
  if (!still?.ok && !(outside.edge.ok && !outside.websocket.ok && !isGone(still)))
    return still?.reason ?? "not_listening";
  if (!outside.edge.ok) return "edge_not_reached";
  return outside.websocket.ok ? null : "upgrade_not_passed";
}

const isGone = (seen: ProbeResult | null) =>
  seen !== null && !seen.ok && (seen.reason === "not_listening" || seen.reason === "process_exited");

/** The sandbox's own address leads to the first port that was proved, unless it leads somewhere already. */
async function alsoStable(platform: Platform, proved: PreviewRow, row: SandboxRow): Promise<void> {
  const tenant = (await tenantById(platform.pool, row.tenant_id))!;
  const hostname = previewHostname(tenant, row.slug, null);
  const inserted = await platform.pool.query(
    `insert into previews (id, tenant_id, sandbox_id, port, is_primary, visibility, hostname, url, probe, access_sealed, access_sha256, console)
     values ($1, $2, $3, $4, true, $5, $6, $7, $8, $9, $10, $11) on conflict (hostname) do nothing`,
    [
      derivedId(row.id, "stable-preview"),
      row.tenant_id,
      row.id,
      proved.port,
      proved.visibility,
      hostname,
      publicUrl(platform.settings, hostname),
      proved.probe,
      proved.access_sealed,
      proved.access_sha256,
      proved.console,
    ],
  );
  if (inserted.rowCount === 1) await pointPreviews(platform, row, "boxes");
}

async function routePreview(
  platform: Platform,
  call: Call,
  row: SandboxRow,
  port: number,
  wanted: Wanted,
): Promise<PreviewRow> {
  const tenant = (await tenantById(platform.pool, row.tenant_id))!;
  const isPrimary = wanted.port === undefined;
  const hostname = previewHostname(tenant, row.slug, isPrimary ? null : port);
  const token = wanted.visibility === "private" ? randomBytes(24).toString("base64url") : null;
  const { preview, version } = await transaction(platform.pool, async (db) => {
    const stored = await queryOne<PreviewRow>(
      db,
      `insert into previews as p (id, tenant_id, sandbox_id, port, is_primary, name, visibility, hostname, url, expires_at, access_sealed, access_sha256, console)
       values ($1, $2, $3, $4, $5, $6, coalesce($7, 'public'), $8, $9, now() + interval '1 second' * $10::integer, $11, $12, $13)
       on conflict (hostname) do update set port = excluded.port, name = coalesce(excluded.name, p.name), expires_at = excluded.expires_at,
         visibility = coalesce($7, p.visibility), console = coalesce($13, p.console),
         access_sealed = case when coalesce($7, p.visibility) = 'private' then coalesce(p.access_sealed, excluded.access_sealed) end,
         access_sha256 = case when coalesce($7, p.visibility) = 'private' then coalesce(p.access_sha256, excluded.access_sha256) end
       returning *`,
      [
        call.idFor("preview"),
        row.tenant_id,
        row.id,
        port,
        isPrimary,
        wanted.title ?? null,
        wanted.visibility ?? null,
        hostname,
        publicUrl(platform.settings, hostname),
        wanted.ttlSeconds ?? null,
        token === null ? null : platform.seal.close(token),
        token === null ? null : createHash("sha256").update(token).digest("hex"),
        wanted.console ?? null,
      ],
    );
    const version = await routePreviews(db, platform, row, "boxes", hostname);
    return { preview: stored!, version };
  });
  platform.signals.announce("routes");
  const silent = await acknowledged(platform, version, edgeWaitMs, call.signal);
  if (silent.length > 0) {
    await forgetUnproved(platform, preview);
    throw portNotReachable(port, "edge_not_reached", { silent_edges: silent });
  }
  return preview;
}

/** A URL that was never proved is not kept; one that was handed out before keeps its address. */
async function forgetUnproved(platform: Platform, preview: PreviewRow): Promise<void> {
  if (preview.probe) return;
  await transaction(platform.pool, async (db) => {
    await db.query("delete from previews where id = $1 and probe is null", [preview.id]);
    await removeRoutes(db, "hostname = $1", [preview.hostname]);
  });
  platform.signals.announce("routes");
}

/**
 * Removes addresses whose time is over, and those whose proof was cut off: no client has them.
 * A proof takes far less than the two minutes.
 */
export async function forgetPreviews(platform: Platform): Promise<void> {
  const removed = await transaction(platform.pool, async (db) => {
    const { rows } = await db.query<{ hostname: string }>(
      `delete from previews where expires_at < now() or (probe is null and created_at < now() - interval '2 minutes')
       returning hostname`,
    );
    if (rows.length > 0) await removeRoutes(db, "hostname = any($1)", [rows.map((row) => row.hostname)]);
    return rows.length;
  });
  if (removed > 0) platform.signals.announce("routes");
}

/** @param at when the last look began: the server answered after this moment */
async function storeProof(
  platform: Platform,
  preview: PreviewRow,
  at: Date,
  guest: ProbeResult,
  outside: Pick<ProbeRecord, "edge" | "websocket">,
): Promise<PreviewRow> {
  const probe: ProbeRecord = {
    at: at.toISOString(),
    guest: { ok: true, http_status: guest.httpStatus, latency_ms: guest.latencyMs },
    ...outside,
  };
  const stored = await transaction(platform.pool, async (db) => {
    const row = await queryOne<PreviewRow>(db, "update previews set probe = $2 where id = $1 returning *", [
      preview.id,
      probe,
    ]);
    await recordIn(db, {
      tenantId: preview.tenant_id,
      type: "preview.ready",
      resourceType: "sandbox",
      resourceId: preview.sandbox_id,
      data: { id: preview.id, sandbox_id: preview.sandbox_id, port: preview.port, url: preview.url },
    });
    return row;
  });
  platform.signals.announce("events", `events:${preview.sandbox_id}`);
  return stored ?? { ...preview, probe };
}
