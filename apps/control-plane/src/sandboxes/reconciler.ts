import { faultPoint } from "@platform/daemon";
import { PlatformError } from "@platform/contract";
import { HostError, type Box } from "@platform/host-api";
import { transaction } from "@platform/postgres";
import { endBranchesOf } from "../databases/index.ts";
import { acknowledged, pointPreviews, removeRoutes } from "../edges/index.ts";
import { record } from "../events/index.ts";
import { effectiveEgress } from "../egress/index.ts";
import { guestOf } from "../guests.ts";
import type { Platform } from "../platform.ts";
import { resolveTemplate } from "../templates/index.ts";
import { tenantById } from "../tenants/index.ts";
import { wantsAgentsFile, writeAgentsFile } from "./agents-file.ts";
import { boxSpecOf, environmentOf } from "./box-spec.ts";
import { imageFallback } from "./create.ts";
import { dropCopy, groupTurn, passTurn, restartFromDisk, takeCopy } from "./copies.ts";
import { ensureServices } from "./desired-services.ts";
import { checkReadiness, isReady } from "./readiness.ts";
import { runSetup } from "./setup.ts";
import { canPause, loadSandbox, moveTo, want, type SandboxRow } from "./store.ts";

const soonMs = 200;
const steadyMs = 15_000;
/** A running sandbox whose box is lost says so within this time, milliseconds. */
const watchMs = 5_000;
const ackTimeoutMs = 5_000;

const isolationUnavailable =
  "No machine can isolate this sandbox as required. Ask your operator: the reason is in the machine's log.";

type Desired = "running" | "paused" | "destroyed";

/** What a sandbox that outlived its time shall become. */
function afterTimeout(row: SandboxRow, now: number): Desired | null {
  if (row.always_on || row.state !== "running") return null;
  const old = row.expires_at !== null && row.expires_at.getTime() <= now;
  const idle = row.idle_timeout_sec > 0 && row.last_used_at.getTime() + row.idle_timeout_sec * 1000 <= now;
  if (!old && !idle) return null;
  if (row.persistent) return canPause(row) ? "paused" : null;
  return "destroyed";
}

/** Milliseconds until time alone changes what is wanted. */
function untilTimeout(row: SandboxRow): number {
  if (row.persistent && !canPause(row)) return watchMs;
  const ends = [
    row.expires_at?.getTime() ?? Infinity,
    row.idle_timeout_sec > 0 ? row.last_used_at.getTime() + row.idle_timeout_sec * 1000 : Infinity,
  ];
  return Math.max(soonMs, Math.min(watchMs, Math.min(...ends) - Date.now() + 50));
}

export function createSandboxStep(platform: Platform) {
  return async (id: string, signal: AbortSignal, stored?: unknown): Promise<number> => {
    const row = (stored as SandboxRow | undefined) ?? (await loadSandbox(platform.pool, id));
    if (!row || row.state === "destroyed") return steadyMs;
    faultPoint("control-plane.sandbox.claimed");
    const timedOut = afterTimeout(row, Date.now());
    if (timedOut && row.desired === "running") {
      await want(platform, row.id, { desired: timedOut });
      return 0;
    }
    if (row.desired === "destroyed") return destroy(platform, row, signal);
    if (row.state === "error") return steadyMs;
    if (row.state === "provisioning") return provision(platform, row, signal, stored !== undefined);
    const box = await platform.host.box(row.box_key, signal);
    if (!box || box.state === "failed") return lost(platform, row, box);
    if (row.desired === "paused")
      return row.state === "paused" && box.state === "paused" ? steadyMs : pause(platform, row, signal);
    if (box.state === "paused") return resume(platform, row, signal);
    if (row.state === "paused") await moveTo(platform, row, "running");
    return untilTimeout(row);
  };
}

async function fail(
  platform: Platform,
  row: SandboxRow,
  reason: string,
  message: string,
  evidence?: unknown,
): Promise<number> {
  const stored = await moveTo(platform, row, "error", {
    last_error: JSON.stringify({ reason, message, evidence }),
    ready: false,
  });
  if (stored) {
    await record(platform, event(row, "sandbox.error", { reason, message }));
    await passTurn(platform, row);
  }
  return 0;
}

const event = (row: SandboxRow, type: string, data: Record<string, unknown> = {}) => ({
  tenantId: row.tenant_id,
  workspaceId: row.workspace_id,
  type,
  resourceType: "sandbox",
  resourceId: row.id,
  data: { id: row.id, name: row.name, ...data },
});

/** Settles what the sandbox boots, where no machine could be asked when it was created. */
async function withImage(platform: Platform, row: SandboxRow): Promise<SandboxRow | null> {
  if (row.image) return row;
  const { image } = await resolveTemplate(platform, row.tenant_id, row.template_id);
  if (!image) return null;
  await platform.pool.query("update sandboxes set image = $2 where id = $1 and image is null", [
    row.id,
    JSON.stringify(image),
  ]);
  if (image.fallback) await record(platform, imageFallback(row.tenant_id, row.workspace_id, row.id, image));
  return { ...row, image };
}

/** @param isNew nobody looked at it before, so it cannot have a box */
async function provision(
  platform: Platform,
  wanted: SandboxRow,
  signal: AbortSignal,
  isNew: boolean,
): Promise<number> {
  const turn = await groupTurn(platform, wanted);
  if (turn !== null) return turn;
  let row: SandboxRow;
  try {
    const settled = await withImage(platform, wanted);
    if (!settled) return soonMs;
    row = settled;
  } catch (error) {
    if (!(error instanceof PlatformError)) throw error;
    return fail(platform, wanted, error.code.toLowerCase(), error.message, error.details);
  }
  const copy = await takeCopy(platform, row, signal);
  if (copy.type === "wait") return copy.ms;
  if (copy.type === "failed") return fail(platform, row, copy.reason, copy.message);
  const [existing, tenant, { env, linked }, egress] = await Promise.all([
    isNew ? null : platform.host.box(row.box_key, signal),
    tenantById(platform.pool, row.tenant_id),
    environmentOf(platform, row),
    effectiveEgress(platform.pool, row),
  ]);
  if (linked.failed[0])
    return fail(
      platform,
      row,
      "database_failed",
      `The database ${linked.failed[0].id} failed: ${linked.failed[0].reason}. Delete the sandbox and create the database again.`,
    );
  if (linked.waitingFor.length > 0) return soonMs;
  let box: Box;
  try {
    box =
      existing?.state === "running"
        ? existing
        : await platform.host.putBox(
            row.box_key,
            boxSpecOf(platform, row, tenant!, { env, linked, egress }),
            signal,
          );
  } catch (error) {
    if (!(error instanceof HostError) || error.code === "UNREACHABLE" || error.code === "INTERNAL")
      throw error;
    if (error.code !== "ISOLATION_UNAVAILABLE")
      return fail(platform, row, error.code.toLowerCase(), error.message, error.details);
    // The machine's own words name its paths and tools: they are for its operator, not for tenants.
    platform.log.error({ err: error, sandboxId: row.id }, "no isolation is usable on this machine");
    return fail(platform, row, "isolation_unavailable", isolationUnavailable);
  }
  faultPoint("control-plane.sandbox.box-started");
  const guest = guestOf(platform.host, row.box_key);
  const hasAgentsFile = wantsAgentsFile(row, tenant!);
  const writesAgentsFile = () => writeAgentsFile(platform, guest, row, tenant!, { env, linked, egress });
  // Beside the looks at the box, unless a set-up may bring a file of its own.
  const [components] = await Promise.all([
    checkReadiness(guest, row, () => platform.host.oom(row.box_key, signal)),
    hasAgentsFile && !row.setup ? writesAgentsFile() : null,
  ]);
  if (!isReady(components)) {
    await platform.pool.query("update sandboxes set readiness = $2 where id = $1", [row.id, components]);
    const bad = Object.entries(components).filter(([, component]) => component.status !== "ready");
    throw new Error(
      `not ready: ${bad.map(([name, component]) => `${name}: ${component.detail}`).join("; ")}`,
    );
  }
  if (row.setup && row.setup.status !== "done") await runSetup(platform, row, guest, signal);
  if (hasAgentsFile && row.setup) await writesAgentsFile();
  faultPoint("control-plane.sandbox.before-running");
  const stored = await moveTo(platform, row, "running", {
    isolation: box.isolation,
    readiness: components,
    ready: true,
    ready_at: row.ready_at ?? new Date(),
    started_at: row.started_at ?? new Date(),
    boot_ms: box.bootMs,
    boot_path: box.bootPath,
    last_error: null,
  });
  if (!stored) return 0;
  // A sandbox that was here before has addresses already; they lead to its new box from now on.
  if (row.ready_at !== null) await pointPreviews(platform, row, "boxes");
  await passTurn(platform, row);
  await record(
    platform,
    event(row, "sandbox.ready", { boot_ms: box.bootMs, isolation: box.isolation?.level }),
  );
  await dropCopy(platform, row, signal);
  return untilTimeout(row);
}

/**
 * The box of a sandbox that was up is gone or broken. One that ended with its machine's program, and not
 * by a fault of its own, starts again from its disk; anything else is said as it is, with the kernel's
 * evidence.
 */
async function lost(platform: Platform, row: SandboxRow, box: Box | null): Promise<number> {
  const endedWithHost =
    box?.failure?.evidence["whileHostWasAway"] === true && box.failure.reason !== "oom" && row.persistent;
  if (endedWithHost) {
    // Its memory is gone, its files are not: a paused one stays so until somebody wants it.
    if (row.desired === "paused" && row.state === "paused") return steadyMs;
    await restartFromDisk(platform, row);
    return 0;
  }
  const failure = box?.failure ?? {
    reason: "guest_lost",
    detail: "The machine no longer has this sandbox.",
    evidence: {},
  };
  return fail(platform, row, failure.reason, failure.detail, failure.evidence);
}

async function pause(platform: Platform, row: SandboxRow, signal: AbortSignal): Promise<number> {
  await pointPreviews(platform, row, "wake");
  await platform.host.pause(row.box_key, signal);
  if (await moveTo(platform, row, "paused")) await record(platform, event(row, "sandbox.paused"));
  return steadyMs;
}

async function resume(platform: Platform, row: SandboxRow, signal: AbortSignal): Promise<number> {
  await platform.host.resume(row.box_key, signal);
  const guest = guestOf(platform.host, row.box_key);
  await guest.ready(signal);
  // Drivers that keep no memory start the box anew: its services are there again either way.
  await ensureServices(platform, row, guest, signal);
  await pointPreviews(platform, row, "boxes");
  const expires = new Date(Date.now() + row.timeout_sec * 1000);
  if (await moveTo(platform, row, "running", { expires_at: expires, last_used_at: new Date() }))
    await record(platform, event(row, "sandbox.resumed"));
  return untilTimeout({ ...row, expires_at: expires });
}

/** Routes go first, so that visitors see "not found" and never a dead box. */
async function destroy(platform: Platform, row: SandboxRow, signal: AbortSignal): Promise<number> {
  faultPoint("control-plane.sandbox.before-delete");
  const version = await transaction(platform.pool, (db) =>
    removeRoutes(db, "sandbox_id = $1 and kind in ('preview', 'sandbox')", [row.id]),
  );
  platform.signals.announce("routes");
  await acknowledged(platform, version, ackTimeoutMs, signal);
  await platform.host.deleteBox(row.box_key, signal);
  await dropCopy(platform, row, signal);
  await platform.pool.query("delete from previews where sandbox_id = $1", [row.id]);
  await platform.pool.query(
    "delete from database_links where resource_type = 'sandbox' and resource_id = $1",
    [row.id],
  );
  await endBranchesOf(platform, row.id);
  faultPoint("control-plane.sandbox.before-destroyed");
  if (await moveTo(platform, row, "destroyed", { destroyed_at: new Date(), ready: false }))
    await record(platform, event(row, "sandbox.destroyed"));
  await passTurn(platform, row);
  return steadyMs;
}
