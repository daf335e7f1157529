import assert from "node:assert/strict";
import { AuthenticationError, Sandbox, SandboxNotFoundError } from "e2b";
import { failure, until, type Step } from "./step.ts";

const unknownId = "11111111-1111-4111-8111-111111111111";

export const startSteps: readonly Step[] = [
  {
    name: "a sandbox is created with nothing but a domain and a key",
    isLean: true,
    run: async (scene) => {
      scene.sandbox = await Sandbox.create({
        timeoutMs: 600_000,
        metadata: { user: "ann b", project: "é&=" },
        envs: { GREETING: "hello" },
      });
      assert.equal(await scene.sandbox.isRunning(), true);
    },
  },
  {
    name: "a key that is not known is refused as a credential",
    isLean: true,
    run: async () => {
      const error = await failure(Sandbox.create({ apiKey: `e2b_${"0".repeat(40)}` }));
      assert.ok(error instanceof AuthenticationError, String(error));
    },
  },
  {
    name: "an unknown template is refused by its name",
    run: async () => {
      assert.match((await failure(Sandbox.create("no-such-template"))).message, /no-such-template/);
    },
  },
  {
    name: "a sandbox is found by its metadata and described",
    isLean: true,
    run: async ({ sandbox }) => {
      const found = await Sandbox.list({ query: { metadata: { project: "é&=" } } }).nextItems();
      assert.deepEqual(
        found.map((one) => one.sandboxId),
        [sandbox.sandboxId],
      );
      assert.deepEqual(await Sandbox.list({ query: { metadata: { user: "x" } } }).nextItems(), []);
      const info = await sandbox.getInfo();
      assert.deepEqual(info.metadata, { user: "ann b", project: "é&=" });
      assert.equal(info.state, "running");
      assert.deepEqual(info.lifecycle, { onTimeout: "kill", autoResume: false });
      assert.ok(Math.abs(info.endAt.getTime() - Date.now() - 600_000) < 60_000, info.endAt.toISOString());
    },
  },
  {
    name: "the end of a sandbox is moved, and read back",
    run: async ({ sandbox }) => {
      await sandbox.setTimeout(900_000);
      const { endAt } = await sandbox.getInfo();
      assert.ok(endAt.getTime() - Date.now() > 840_000);
      await Sandbox.connect(sandbox.sandboxId, { timeoutMs: 60_000 });
      assert.equal((await sandbox.getInfo()).endAt.getTime(), endAt.getTime(), "connecting never shortens");
    },
  },
  {
    name: "metrics are the sandbox's own",
    run: async ({ sandbox }) => {
      const [now] = await sandbox.getMetrics();
      assert.ok(now, "a machine that measures has an entry");
      assert.equal(now.cpuCount, 2);
      assert.ok(now.memUsed > 0 && now.memUsed < now.memTotal);
      assert.ok(now.diskTotal > now.diskUsed);
    },
  },
];

export const pauseSteps: readonly Step[] = [
  {
    name: "a pause keeps memory and files, and connecting wakes the sandbox",
    run: async ({ sandbox }) => {
      const sleeper = await sandbox.commands.run("sleep 600", { background: true });
      await sandbox.files.write("kept.txt", "kept");
      assert.equal(await sandbox.pause(), true);
      assert.equal(await sandbox.pause(), false);
      assert.equal(await sandbox.isRunning(), false);
      const paused = await Sandbox.list({ query: { state: ["paused"] } }).nextItems();
      assert.ok(paused.some((one) => one.sandboxId === sandbox.sandboxId));
      const again = await Sandbox.connect(sandbox.sandboxId);
      assert.equal(await again.files.read("kept.txt"), "kept");
      assert.ok((await again.commands.list()).some(({ pid }) => pid === sleeper.pid));
      await again.commands.kill(sleeper.pid);
    },
  },
  {
    name: "a sandbox that pauses at its end is woken by traffic",
    run: async () => {
      const sandbox = await Sandbox.create({
        timeoutMs: 2_000,
        lifecycle: { onTimeout: "pause", autoResume: true },
      });
      try {
        await until("the pause", async () => (await sandbox.getInfo()).state === "paused");
        assert.equal((await sandbox.commands.run("echo awake")).stdout, "awake\n");
        assert.deepEqual((await sandbox.getInfo()).lifecycle, { onTimeout: "pause", autoResume: true });
      } finally {
        await sandbox.kill();
      }
    },
  },
  {
    name: "a sandbox that ends at its time is gone",
    run: async () => {
      const sandbox = await Sandbox.create({ timeoutMs: 1_000 });
      await until("its end", async () => !(await sandbox.isRunning()));
      await until("its removal", async () => {
        const error = await sandbox.getInfo().then(
          () => null,
          (thrown: unknown) => thrown,
        );
        return error instanceof SandboxNotFoundError;
      });
    },
  },
  {
    name: "a snapshot is listed, and a sandbox starts from its id and from its name",
    run: async ({ sandbox }) => {
      await sandbox.files.write("state.txt", "at the snapshot");
      const snapshot = await sandbox.createSnapshot({ name: "checked-out" });
      await sandbox.files.write("state.txt", "later");
      const listed = await sandbox.listSnapshots().nextItems();
      assert.deepEqual(listed, [snapshot]);
      assert.deepEqual(snapshot.names, ["checked-out:default"]);
      for (const template of [snapshot.snapshotId, "checked-out"]) {
        const copy = await Sandbox.create(template);
        assert.equal(await copy.files.read("state.txt"), "at the snapshot");
        await copy.kill();
      }
      assert.equal(await Sandbox.deleteSnapshot(snapshot.snapshotId), true);
      assert.equal(await Sandbox.deleteSnapshot(snapshot.snapshotId), false);
    },
  },
  {
    name: "forks start with the files and go their own ways",
    run: async ({ sandbox }) => {
      const forks = await sandbox.fork({ count: 2 });
      assert.equal(forks.length, 2);
      for (const fork of forks) {
        assert.ok(!(fork instanceof Error), String(fork));
        assert.equal(await fork.files.read("state.txt"), "later");
        await fork.files.write("state.txt", "fork");
        await fork.kill();
      }
      assert.equal(await sandbox.files.read("state.txt"), "later");
      assert.equal((await sandbox.listSnapshots().nextItems()).length, 0);
    },
  },
  {
    name: "lists come in pages",
    run: async ({ sandbox }) => {
      const others = await Promise.all([1, 2].map(() => Sandbox.create({ metadata: { page: "yes" } })));
      const seen: string[] = [];
      const pages = Sandbox.list({ limit: 1, query: { metadata: { page: "yes" } } });
      while (pages.hasNext) seen.push(...(await pages.nextItems()).map((one) => one.sandboxId));
      await Promise.all(others.map((one) => one.kill()));
      assert.deepEqual(seen.sort(), others.map((one) => one.sandboxId).sort());
      assert.ok(!seen.includes(sandbox.sandboxId));
    },
  },
];

export const endSteps: readonly Step[] = [
  {
    name: "a killed sandbox does not run, and what is asked of it says so",
    isLean: true,
    run: async ({ sandbox }) => {
      assert.equal(await sandbox.kill(), true);
      assert.equal(await sandbox.kill(), false);
      assert.equal(await sandbox.isRunning(), false);
      assert.ok((await failure(sandbox.commands.run("true"))) instanceof SandboxNotFoundError);
      assert.ok((await failure(Sandbox.connect(sandbox.sandboxId))) instanceof SandboxNotFoundError);
      assert.ok((await failure(Sandbox.connect(unknownId))) instanceof SandboxNotFoundError);
    },
  },
];
