import assert from "node:assert/strict";
import { readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { waitFor } from "@platform/daemon";
import { HostError } from "@platform/host-api";
import { groupsOf, guestOf, service, spec, startTestHost, whyNoBoxes, type TestHost } from "../testing.ts";

const skip = whyNoBoxes() ?? false;
const mib = 1024 * 1024;
const isRoot = process.getuid?.() === 0;

const hasCode = (code: string) => (error: unknown) => error instanceof HostError && error.code === code;

/** Everything on this machine that belongs to the box. */
async function traces(host: TestHost, key: string): Promise<string[]> {
  const found = (await groupsOf(host.tag)).filter((folder) => folder.endsWith(key));
  found.push(...(await readdir(join(host.dataDir, "boxes"))).filter((name) => name === key));
  found.push(...(await processesOf(host, key)).map((pid) => `process ${pid}`));
  const mounts = await readFile("/proc/self/mountinfo", "utf8");
  if (mounts.includes(`${host.dataDir}/boxes/${key}`)) found.push("mount");
  return found;
}

async function processesOf(host: TestHost, key: string): Promise<number[]> {
  const found: number[] = [];
  for (const pid of (await readdir("/proc")).filter((name) => /^\d+$/.test(name))) {
    const text = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
    if (text.includes(`box.${host.tag}.${key}`)) found.push(Number(pid));
  }
  return found;
}

async function canLimit(host: TestHost, t: TestContext): Promise<boolean> {
  const doctor = await host.client.doctor();
  const missing = doctor.drivers[0]?.missing ?? [];
  const lacks = missing.filter((name) => name.includes("limit") && !name.startsWith("disk"));
  if (lacks.length > 0) t.skip(`no writable control groups here: ${lacks.join(", ")}`);
  return lacks.length === 0;
}

test("a box runs once its agent answered, and a deleted one leaves nothing", { skip }, async (t) => {
  const host = await startTestHost(t);
  const box = await host.client.putBox("box-one", spec());
  assert.equal(box.state, "running");
  assert.ok(box.bootMs !== null && box.bootMs > 0);
  assert.equal(box.isolation?.level, "namespaces");
  assert.equal(box.isolation.missing.includes("own uid"), !isRoot);
  await guestOf(t, host, "box-one").exec("sh -c 'sleep 1000 & setsid sleep 1000 &'");
  assert.notEqual((await traces(host, "box-one")).length, 0);
  await host.client.deleteBox("box-one");
  assert.deepEqual(await traces(host, "box-one"), []);
  assert.equal(await host.client.box("box-one"), null);
  await host.client.deleteBox("box-one");
});

test(
  "the same spec again is the same box, also at the same time; another spec is a conflict",
  { skip },
  async (t) => {
    const host = await startTestHost(t);
    const made = await Promise.all([1, 2, 3].map(() => host.client.putBox("box-same", spec())));
    assert.equal(new Set(made.map(({ createdAt }) => createdAt)).size, 1);
    assert.equal((await host.client.putBox("box-same", spec())).createdAt, made[0]?.createdAt);
    await assert.rejects(host.client.putBox("box-same", spec({ hostname: "other" })), hasCode("CONFLICT"));
    assert.equal((await host.client.boxes()).length, 1);
  },
);

test("a class of isolation that this machine lacks is refused, not weakened", { skip }, async (t) => {
  const host = await startTestHost(t);
  await assert.rejects(
    host.client.putBox("box-strong", spec({ minimumIsolation: "microvm-hw" })),
    hasCode("ISOLATION_UNAVAILABLE"),
  );
  assert.deepEqual(await traces(host, "box-strong"), []);
});

test("a killed daemon's boxes are adopted: same process, same agent, same way out", { skip }, async (t) => {
  const host = await startTestHost(t);
  await host.client.putBox("box-kept", spec({ services: [service("idle", "sleep 1000", "always")] }));
  const before = await waitFor(
    "the service to have a process",
    async () => {
      const record = await guestOf(t, host, "box-kept").services.get("idle");
      return record.pid === null ? undefined : record;
    },
    10_000,
  );
  const pids = await processesOf(host, "box-kept");
  await host.kill("SIGKILL");
  await host.start();
  const box = await host.client.box("box-kept");
  assert.equal(box?.state, "running");
  assert.deepEqual(await processesOf(host, "box-kept"), pids);
  const guest = guestOf(t, host, "box-kept");
  assert.equal((await guest.services.get("idle")).pid, before.pid);
  const refused = await guest.exec("curl -s -o /dev/null -w '%{http_code}' http://203.0.113.7/");
  assert.equal(refused.stdout, "403");
  assert.equal(
    (await host.client.putBox("box-kept", spec({ services: [service("idle", "sleep 1000", "always")] })))
      .createdAt,
    box?.createdAt,
  );
  await host.client.deleteBox("box-kept");
  assert.deepEqual(await traces(host, "box-kept"), []);
});

for (const point of ["before-state", "after-state", "after-start", "before-ready", "after-ready"]) {
  test(
    `a daemon that dies at host.box.${point} leaves nothing half-made, and the next PUT succeeds`,
    { skip },
    async (t) => {
      const host = await startTestHost(t);
      await host.armFault(`host.box.${point}`);
      await assert.rejects(host.client.putBox("box-torn", spec()), hasCode("UNREACHABLE"));
      await host.kill("SIGKILL");
      await host.start();
      const found = await host.client.box("box-torn");
      if (point === "after-ready") assert.equal(found?.state, "running");
      else assert.deepEqual([found, await traces(host, "box-torn")], [null, []]);
      assert.equal((await host.client.putBox("box-torn", spec())).state, "running");
    },
  );
}

for (const point of ["delete-after-kill", "delete-before-forget"]) {
  test(`a deletion that dies at host.box.${point} is finished by the next daemon`, { skip }, async (t) => {
    const host = await startTestHost(t);
    await host.client.putBox("box-going", spec());
    await host.armFault(`host.box.${point}`);
    await assert.rejects(host.client.deleteBox("box-going"), hasCode("UNREACHABLE"));
    await host.kill("SIGKILL");
    await host.start();
    assert.deepEqual(await traces(host, "box-going"), []);
    assert.equal(await host.client.box("box-going"), null);
  });
}

test("a box whose processes are killed is reported failed, not out of memory", { skip }, async (t) => {
  const host = await startTestHost(t);
  await host.client.putBox("box-shot", spec());
  const state = JSON.parse(await readFile(join(host.dataDir, "boxes/box-shot/state.json"), "utf8")) as {
    driverState: { init: { pid: number } };
  };
  process.kill(state.driverState.init.pid, "SIGKILL");
  const box = await waitFor(
    "the failure",
    async () => {
      const seen = await host.client.box("box-shot");
      return seen?.state === "failed" ? seen : undefined;
    },
    10_000,
  );
  assert.equal(box.failure?.reason, "killed");
  await assert.rejects(host.client.putBox("box-shot", spec()), hasCode("BOX_FAILED"));
  await host.client.deleteBox("box-shot");
  assert.deepEqual(await traces(host, "box-shot"), []);
});

test(
  "memory beyond the limit is counted by the kernel; the agent's own end by it is called oom",
  { skip },
  async (t) => {
    const host = await startTestHost(t);
    if (!(await canLimit(host, t))) return;
    const limits = { memoryBytes: 192 * mib, cpuMillis: 1000, maxProcesses: 64, diskBytes: 64 * mib };
    await host.client.putBox("box-hog", spec({ limits }));
    const guest = guestOf(t, host, "box-hog");
    const hog = await guest.exec(`node -e 'const a=[];for(;;)a.push(Buffer.alloc(1<<24,1))'`);
    assert.equal(hog.exitCode === 0, false);
    const stats = await host.client.stats("box-hog");
    assert.equal(stats?.oomKills, 1);
    assert.equal(stats.memoryLimitBytes, 192 * mib);
    assert.ok((stats.memoryPeakBytes ?? 0) > 180 * mib);
    assert.equal((await host.client.box("box-hog"))?.state, "running");
    // Tmpfs belongs to no process: filling it leaves the kernel nothing to kill but the agent.
    const fill =
      "for i in 1 2 3 4 5 6 7 8; do head -c 90M /dev/zero > /tmp/f; head -c 90M /dev/zero > /dev/shm/f; done";
    const box = await waitFor(
      "the verdict",
      async () => {
        await guest.exec(fill).catch(() => undefined); // Programs end first, and then the agent under it.
        const seen = await host.client.box("box-hog");
        return seen?.state === "failed" ? seen : undefined;
      },
      30_000,
    );
    assert.equal(box.failure?.reason, "oom", JSON.stringify(box.failure));
    const evidence = box.failure.evidence as { oomKills: number; oomKillsBefore: number };
    assert.ok(evidence.oomKills > evidence.oomKillsBefore);
  },
);

test("a fork bomb stays within its limit and its box still answers", { skip }, async (t) => {
  const host = await startTestHost(t);
  if (!(await canLimit(host, t))) return;
  const limits = { memoryBytes: 256 * mib, cpuMillis: 500, maxProcesses: 40, diskBytes: 64 * mib };
  // The service itself forks once: a shell that cannot fork ends, and its group would end with it.
  const bomb = "b(){ while :; do b & done; }; b & exec sleep 1000";
  await host.client.putBox("box-bomb", spec({ limits, services: [service("bomb", bomb)] }));
  const peak = await waitFor(
    "the limit to be reached",
    async () => {
      const { processes } = (await host.client.stats("box-bomb")) ?? {};
      return (processes ?? 0) >= 50 ? processes : undefined;
    },
    15_000,
  );
  assert.ok((peak ?? 0) <= 64);
  assert.equal((await host.client.box("box-bomb"))?.state, "running");
  await host.client.deleteBox("box-bomb");
  assert.deepEqual(await traces(host, "box-bomb"), []);
});

test("a paused box keeps its memory and answers nothing until it is resumed", { skip }, async (t) => {
  const host = await startTestHost(t);
  if (!(await canLimit(host, t))) return;
  await host.client.putBox("box-nap", spec());
  const guest = guestOf(t, host, "box-nap");
  const { pid } = await guest.ready();
  assert.equal((await host.client.pause("box-nap")).state, "paused");
  await assert.rejects(host.client.dialPort("box-nap", 80), hasCode("BOX_PAUSED"));
  await host.kill("SIGKILL");
  await host.start();
  assert.equal((await host.client.box("box-nap"))?.state, "paused");
  assert.equal((await host.client.resume("box-nap")).state, "running");
  assert.equal((await guestOf(t, host, "box-nap").ready()).pid, pid);
  await host.client.pause("box-nap");
  await host.client.deleteBox("box-nap");
  assert.deepEqual(await traces(host, "box-nap"), []);
});

test("the folder of a box and its record are closed to everyone else", { skip }, async (t) => {
  const host = await startTestHost(t);
  await host.client.putBox("box-shut", spec({ env: { SECRET: "value-nobody-sees" } }));
  const at = (name: string) => stat(join(host.dataDir, "boxes/box-shut", name));
  assert.equal((await at("state.json")).mode & 0o077, 0);
  assert.equal((await at("run/agent")).mode & 0o077, 0);
  assert.equal((await at("disk/workspace")).mode & 0o077, 0);
  if (isRoot) assert.ok((await at("run/agent")).uid >= 200_000);
  assert.ok(!JSON.stringify(await host.client.box("box-shut")).includes("value-nobody-sees"));
});
