import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { after, before, describe, test } from "node:test";
import { makeFolders, removeFolders, Server } from "./kill/server.ts";
import { waitFor } from "./kill/wait.ts";

const rounds = 20;
const forks = 20;
const fileBytes = 64 * 1024;
const mostDriftMs = 1_000;

interface Sandbox {
  readonly id: string;
  readonly state: string;
}

describe("what was written and synced", () => {
  const folders = makeFolders();
  let server: Server;
  before(async () => {
    server = await Server.start(folders);
  });
  after(() => removeFolders(folders, server ?? null));

  test("is there after 20 pauses, in 20 forks, with the host killed in between", async () => {
    const { id } = await server.api.post<Sandbox>("/sandboxes?wait=60", { size: "xs" }, "source");
    const boot = await inside(
      server,
      id,
      "cat /proc/sys/kernel/random/boot_id; nohup sleep 100000 >/dev/null 2>&1 & echo $!",
    );
    const pid = boot.trim().split("\n").at(-1);
    const sums: string[] = [];
    for (let round = 0; round < rounds; round++) {
      sums.push(await writeSynced(server, id, round));
      const paused = server.api.post(`/sandboxes/${id}/pause`, {}, `pause-${round}`);
      if (round % 7 === 3) await killHost(server);
      await paused;
      const resumed = server.api.post(`/sandboxes/${id}/resume`, {}, `resume-${round}`);
      if (round % 7 === 5) await killHost(server);
      await resumed;
      await assertFiles(server, id, sums);
    }
    // Frozen and thawed, never started again.
    await inside(server, id, `test -d /proc/${pid}`);
    const made: string[] = [];
    const work = async (first: number) => {
      for (let n = first; n < forks; n += 4) {
        const fork = await server.api.post<Sandbox>(`/sandboxes/${id}/fork`, {}, `fork-${n}`);
        made.push(await running(server, fork.id));
      }
    };
    const all = Promise.all([0, 1, 2, 3].map(work));
    await waitFor("a few forks", () => made.length >= 5, 240_000, 100);
    await killHost(server);
    await all;
    assert.equal(new Set(made).size, forks);
    const seen: Awaited<ReturnType<typeof identityOf>>[] = [];
    for (const fork of made) {
      await assertFiles(server, fork, sums);
      seen.push(await identityOf(server, fork));
    }
    for (const name of ["random", "uuid", "key", "hostname"] as const) {
      const values: unknown[] = seen.map((one) => one[name]);
      assert.equal(new Set(values).size, forks, `${name} is shared: ${values.join(" ")}`);
    }
    for (const { driftMs } of seen) assert.ok(driftMs <= mostDriftMs, `a clock is off by ${driftMs} ms`);
  });
});

/** A command's output; repeated while the sandbox cannot be reached, as its host may have been killed. */
async function inside(server: Server, id: string, command: string): Promise<string> {
  const path = `/sandboxes/${id}/exec`;
  const result = await waitFor(
    `an answer to ${command.slice(0, 60)}`,
    () =>
      server.api.post<{ exit_code: number; stdout: string }>(
        path,
        { command },
        randomBytes(8).toString("hex"),
      ),
    60_000,
    200,
  );
  assert.equal(result.exit_code, 0, JSON.stringify(result));
  return result.stdout;
}

/** @returns the digest of a file that the sandbox wrote and synced */
async function writeSynced(server: Server, id: string, round: number): Promise<string> {
  const bytes = randomBytes(fileBytes);
  const path = `/workspace/f${round}`;
  await server.api.post(
    `/sandboxes/${id}/files`,
    { path, content: bytes.toString("base64") },
    `file-${round}`,
  );
  await inside(server, id, `sync ${path} /workspace`);
  return createHash("sha256").update(bytes).digest("hex");
}

async function assertFiles(server: Server, id: string, sums: readonly string[]): Promise<void> {
  const names = sums.map((_, round) => `/workspace/f${round}`);
  const text = await inside(server, id, `sha256sum ${names.join(" ")}`);
  const seen = text
    .trim()
    .split("\n")
    .map((line) => line.split(" ")[0]);
  assert.deepEqual(seen, sums);
}

async function running(server: Server, id: string): Promise<string> {
  await waitFor(
    `sandbox ${id} to run`,
    async () => {
      const { state } = await server.api.get<Sandbox>(`/sandboxes/${id}`);
      assert.notEqual(state, "error");
      return state === "running";
    },
    120_000,
    200,
  );
  return id;
}

const look = `head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \\n'; echo
cat /proc/sys/kernel/random/uuid
node -p 'require("crypto").generateKeyPairSync("ed25519").publicKey.export({type:"spki",format:"der"}).toString("hex")'
hostname
date +%s%3N`;

async function identityOf(server: Server, id: string) {
  const before = Date.now();
  const [random, uuid, key, hostname, clock] = (await inside(server, id, look)).trim().split("\n");
  const [now, later] = [Number(clock), Date.now()];
  return { random, uuid, key, hostname, driftMs: Math.max(0, before - now, now - later) };
}

async function killHost(server: Server): Promise<void> {
  const host = await waitFor("the host to run", () => server.program("host"), 60_000);
  process.kill(host.pid, "SIGKILL");
  await waitFor("another host", () => (server.program("host")?.pid ?? host.pid) !== host.pid, 60_000);
}
