import { CreateSandbox, EnvMap } from "@platform/contract";
import { transaction } from "@platform/postgres";
import { z } from "zod";
import { acknowledged } from "../edges/index.ts";
import {
  createSandbox,
  storeSandboxes,
  destroySandbox,
  loadSandbox,
  settledSandbox,
  type SandboxContent,
  type SandboxRow,
} from "../sandboxes/index.ts";
import { findTemplate, openSpec } from "../templates/index.ts";
import { ownTemplateOf } from "./builds.ts";
import { assertKept, NetworkConfig, toPolicy } from "./network.ts";
import { ClientProblem, notSupported, parseBody } from "./problem.ts";
import type { ClientCall } from "./route.ts";
import { findSnapshot, withoutTag } from "./snapshot-names.ts";
import { connectView, putSandboxRoute, storeClientRow, type ClientRow } from "./store.ts";

/** Below the minute that clients wait for an answer. */
const readyMs = 50_000;
const edgeMs = 5_000;

const Texts = z.record(z.string(), z.string());

const NewSandbox = z.looseObject({
  templateID: z.string().min(1).max(300),
  timeout: z.int().min(0).optional(),
  autoPause: z.boolean().default(false),
  autoPauseMemory: z.boolean().default(true),
  autoResume: z.looseObject({ enabled: z.boolean() }).optional(),
  secure: z.boolean().optional(),
  allow_internet_access: z.boolean().optional(),
  network: NetworkConfig.default({}),
  metadata: Texts.default({}),
  envVars: EnvMap.default({}),
});
type NewSandbox = z.output<typeof NewSandbox>;

function assertSupported(input: NewSandbox): void {
  const { mcp, iam, volumeMounts } = input as Record<string, unknown>;
  if (mcp) throw notSupported("mcp");
  if (iam) throw notSupported("iam");
  if (Array.isArray(volumeMounts) && volumeMounts.length > 0) throw notSupported("volumeMounts");
  if (input.autoPause && !input.autoPauseMemory)
    throw notSupported("Pausing without memory (autoPauseMemory: false)");
  if (input.autoResume?.enabled && !input.autoPause)
    throw new ClientProblem(
      400,
      "autoResume needs autoPause: a sandbox that is killed at its end cannot resume.",
    );
  assertKept(input.network);
}

interface Origin {
  readonly templateId: string;
  /** Template, size and content as the platform's own create takes them. */
  readonly own: Record<string, unknown>;
}

/** A snapshot's id or name may stand where a template's does. */
async function originOf(call: ClientCall, wanted: string): Promise<Origin> {
  const template = findTemplate(wanted);
  if (template) return { templateId: template.id, own: { template_id: template.id } };
  const snapshot = await findSnapshot(call, wanted);
  // Whether there is such a template, and whether it can be used now, is said where sandboxes are made.
  if (!snapshot) {
    const own = await ownTemplateOf(call, wanted).catch(() => null);
    if (!own) return { templateId: withoutTag(wanted), own: { template_id: withoutTag(wanted) } };
    const { vcpu, memoryMib } = openSpec(call.platform, own);
    const shape =
      vcpu === undefined || memoryMib === undefined ? {} : { cpu_count: vcpu, memory_mb: memoryMib };
    return { templateId: own.id, own: { template_id: own.slug, ...shape } };
  }
  const { template_id, size } = snapshot.sandbox_settings;
  return {
    templateId: `${snapshot.id}:default`,
    own: { template_id, ...(size === "custom" ? {} : { size }), snapshot_id: snapshot.id },
  };
}

/** @param always whether the sandbox asks for its token whatever the body says, as the newer form does */
export async function createFor(call: ClientCall, timeoutSec: number, always: boolean) {
  const input = parseBody(NewSandbox, call.body);
  assertSupported(input);
  const { allowPublicTraffic = true, maskRequestHost, allowOut, denyOut } = input.network;
  const allowInternet = input.allow_internet_access ?? null;
  const network = { ...(allowOut ? { allowOut } : {}), ...(denyOut ? { denyOut } : {}) };
  const origin = await originOf(call, input.templateID);
  const own = CreateSandbox.parse({
    ...origin.own,
    persistent: input.autoPause,
    timeout_sec: Math.max(1, input.timeout ?? timeoutSec),
    env: input.envVars,
    metadata: { ...input.metadata, network_policy: toPolicy(network, allowInternet) },
  });
  const client: ClientRow = {
    template_id: origin.templateId,
    auto_resume: input.autoResume?.enabled ?? false,
    is_secure: always || (input.secure ?? false),
    public_traffic: allowPublicTraffic,
    allow_internet: allowInternet,
    network: { ...network, ...(maskRequestHost ? { maskRequestHost } : {}) },
    host_mask: maskRequestHost ?? null,
  };
  const row = await createSandbox(call.platform, call.own({}), own);
  return opened(call, row, client);
}

/** A copy of another sandbox, with the same rules of access. */
export async function createCopy(
  call: ClientCall,
  source: SandboxRow,
  client: ClientRow,
  options: { content: SandboxContent; env: Record<string, string>; timeoutSec: number },
) {
  const own = CreateSandbox.parse({
    template_id: source.template_id,
    ...(source.size === "custom" ? {} : { size: source.size }),
    cpu_count: source.cpu_count,
    memory_mb: source.memory_mb,
    disk_size_mb: source.disk_size_mb,
    persistent: source.persistent,
    timeout_sec: options.timeoutSec,
    metadata: source.metadata,
    workspace_id: source.workspace_id ?? undefined,
    project_id: source.project_id ?? undefined,
    external_workspace_id: source.external_workspace_id ?? undefined,
    external_user_id: source.external_user_id ?? undefined,
    external_project_id: source.external_project_id ?? undefined,
  });
  const { content, env } = options;
  const as = call.own({});
  const plan = { id: as.idFor("sandbox"), input: own, content, env };
  return opened(call, (await storeSandboxes(call.platform, as, [plan]))[0]!, client);
}

/**
 * Answers once the sandbox runs and every gateway leads to it. What does not come up is removed: the client
 * never learns its id.
 */
async function opened(call: ClientCall, row: SandboxRow, client: ClientRow) {
  const { platform } = call;
  const version = await transaction(platform.pool, async (db) => {
    await storeClientRow(db, row.id, client);
    return putSandboxRoute(db, platform, row, client);
  });
  platform.signals.announce("routes");
  try {
    const [ready, silent] = await Promise.all([
      settledSandbox(platform, row.id, readyMs, (now) => now.ready && now.state === "running"),
      acknowledged(platform, version, edgeMs),
    ]);
    if (!ready) throw new ClientProblem(504, "The sandbox did not start in time. Retry.");
    if (silent.length > 0) throw new ClientProblem(503, "The sandbox's address is not in force yet. Retry.");
    return connectView(call, (await loadSandbox(platform.pool, row.id))!, client);
  } catch (error) {
    await destroySandbox(platform, row.id).catch((failure: unknown) =>
      platform.log.warn(
        { err: failure, sandboxId: row.id },
        "a sandbox that did not start is still being removed",
      ),
    );
    throw error;
  }
}
