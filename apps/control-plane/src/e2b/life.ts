import { transaction } from "@platform/postgres";
import { z } from "zod";
import { acknowledged } from "../edges/index.ts";
import { effectiveEgress } from "../egress/index.ts";
import {
  liveSandbox,
  loadSandbox,
  ownEnvironment,
  pauseSandbox,
  wake,
  wantSandbox,
  type SandboxRow,
} from "../sandboxes/index.ts";
import { createCopy } from "./create.ts";
import { assertKept, NetworkUpdate, toPolicy } from "./network.ts";
import { ClientProblem, notSupported, parseBody } from "./problem.ts";
import type { ClientCall, ClientRoute } from "./route.ts";
import { makeSnapshot } from "./snapshot-names.ts";
import { clientSandbox, connectView, loadClientRow, putSandboxRoute, storeClientRow } from "./store.ts";

const edgeMs = 5_000;
const Seconds = z
  .int()
  .min(0)
  .max(30 * 86_400);
const in_ = (seconds: number) => new Date(Date.now() + seconds * 1000);

async function pause(call: ClientCall) {
  const { memory } = parseBody(z.looseObject({ memory: z.boolean().default(true) }), call.body);
  const row = await clientSandbox(call);
  if (!memory) throw notSupported("Pausing without memory (keepMemory: false)", "Pause with memory.");
  if (row.state === "paused" || row.desired === "paused")
    throw new ClientProblem(409, `Sandbox "${row.id}" is already paused`);
  await pauseSandbox(call.platform, row);
  return null;
}

const Connect = z.looseObject({ timeout: Seconds.optional(), memory: z.boolean().default(true) });

/** Wakes a paused sandbox; of one that runs the end is only ever moved back. */
async function connect(call: ClientCall, standardSec: number) {
  const { timeout = standardSec, memory } = parseBody(Connect, call.body);
  if (!memory)
    throw notSupported("Starting a paused sandbox anew (onResume: reboot)", "Resume it with its memory.");
  const row = await clientSandbox(call);
  const isPaused = row.state === "paused" || row.desired === "paused";
  if (isPaused) return resume(call, row, timeout);
  const end = in_(timeout);
  if (!row.expires_at || row.expires_at < end)
    await wantSandbox(call.platform, row.id, { expires_at: end, timeout_sec: Math.max(1, timeout) });
  return open(call, row);
}

async function resume(call: ClientCall, row: SandboxRow, timeout: number) {
  await wantSandbox(call.platform, row.id, { timeout_sec: Math.max(1, timeout) });
  const running = await wake(call.platform, (await loadSandbox(call.platform.pool, row.id))!);
  call.reply.status(201);
  return open(call, running);
}

/** The tokens, once the gateways lead to the sandbox: it may have been made by another client. */
async function open(call: ClientCall, row: SandboxRow) {
  const { platform } = call;
  const client = await loadClientRow(platform.pool, row);
  const version = await transaction(platform.pool, (db) => putSandboxRoute(db, platform, row, client));
  platform.signals.announce("routes");
  const silent = await acknowledged(platform, version, edgeMs, call.signal);
  if (silent.length > 0) throw new ClientProblem(503, "The sandbox's address is not in force yet. Retry.");
  return connectView(call, row, client);
}

async function fork(call: ClientCall) {
  const { timeout = 300, count } = parseBody(
    z.looseObject({ timeout: Seconds.optional(), count: z.int().min(1).max(100).default(1) }),
    call.body,
  );
  const source = await clientSandbox(call);
  const { row } = await liveSandbox(call.platform, call.caller, source.id);
  const client = await loadClientRow(call.platform.pool, row);
  // One copy serves all: they are equal whatever the source does meanwhile.
  const snapshot = await makeSnapshot(call, row, { comment: "fork", retention_seconds: 3600 });
  const env = ownEnvironment(call.platform, row);
  const content = { type: "snapshot" as const, snapshotKey: snapshot.snapshot_key };
  const results: object[] = [];
  for (let at = 0; at < count; at += forksAtOnce) {
    const part = Array.from({ length: Math.min(forksAtOnce, count - at) }, () =>
      createCopy(call, row, client, { content, env, timeoutSec: Math.max(1, timeout) }).then(
        (sandbox) => ({ sandbox }),
        (error: unknown) => ({ error: forkError(call, error) }),
      ),
    );
    results.push(...(await Promise.all(part)));
  }
  return results;
}

const forksAtOnce = 8;

function forkError(call: ClientCall, error: unknown) {
  const { status, message } = error as { status?: number; message: string };
  if (status !== undefined) return { code: status, message };
  call.platform.log.error({ err: error, requestId: call.request.id }, "a fork failed");
  return { code: 500, message: "The fork failed on our side. Retry." };
}

async function setNetwork(call: ClientCall) {
  const input = parseBody(NetworkUpdate, call.body);
  assertKept(input);
  const row = await clientSandbox(call);
  const before = await loadClientRow(call.platform.pool, row);
  const { allowOut, denyOut, allow_internet_access = null } = input;
  const { maskRequestHost } = before.network;
  const network = {
    ...(allowOut ? { allowOut } : {}),
    ...(denyOut ? { denyOut } : {}),
    ...(maskRequestHost ? { maskRequestHost } : {}),
  };
  const metadata = { ...row.metadata, network_policy: toPolicy(network, allow_internet_access) };
  await storeClientRow(call.platform.pool, row.id, {
    ...before,
    network,
    allow_internet: allow_internet_access,
  });
  await wantSandbox(call.platform, row.id, { metadata });
  if (row.state !== "provisioning")
    await call.platform.host.patchBox(row.box_key, {
      egress: await effectiveEgress(call.platform.pool, { ...row, metadata }),
    });
  return null;
}

export const lifeRoutes: readonly ClientRoute[] = [
  {
    method: "POST",
    path: "/sandboxes/{sandboxID}/pause",
    scope: "sandboxes:write",
    status: 204,
    handle: pause,
  },
  {
    method: "POST",
    path: "/sandboxes/{sandboxID}/resume",
    scope: "sandboxes:write",
    handle: async (call) => {
      const { timeout = 15 } = parseBody(Connect, call.body);
      const row = await clientSandbox(call);
      if (row.state !== "paused") throw new ClientProblem(409, `Sandbox "${row.id}" is already running`);
      return resume(call, row, timeout);
    },
  },
  {
    method: "POST",
    path: "/sandboxes/{sandboxID}/connect",
    scope: "sandboxes:write",
    handle: (call) => connect(call, 15),
  },
  {
    method: "POST",
    path: "/v2/sandboxes/{sandboxID}/connect",
    scope: "sandboxes:write",
    handle: (call) => connect(call, 300),
  },
  {
    method: "POST",
    path: "/sandboxes/{sandboxID}/timeout",
    scope: "sandboxes:write",
    status: 204,
    handle: async (call) => {
      const { timeout } = parseBody(z.looseObject({ timeout: Seconds }), call.body);
      const row = await clientSandbox(call);
      if (row.state === "paused") throw new ClientProblem(404, `Sandbox "${row.id}" is not running`);
      await wantSandbox(call.platform, row.id, {
        expires_at: in_(timeout),
        timeout_sec: Math.max(1, timeout),
      });
      return null;
    },
  },
  {
    method: "POST",
    path: "/sandboxes/{sandboxID}/refreshes",
    scope: "sandboxes:write",
    status: 204,
    handle: async (call) => {
      const { duration } = parseBody(z.looseObject({ duration: Seconds.max(3600).default(15) }), call.body);
      const row = await clientSandbox(call);
      const end = in_(duration);
      if (!row.expires_at || row.expires_at < end)
        await wantSandbox(call.platform, row.id, { expires_at: end });
      return null;
    },
  },
  {
    method: "POST",
    path: "/sandboxes/{sandboxID}/fork",
    scope: "sandboxes:create",
    status: 201,
    handle: fork,
  },
  {
    method: "PUT",
    path: "/sandboxes/{sandboxID}/network",
    scope: "sandboxes:write",
    status: 204,
    handle: setNetwork,
  },
];
