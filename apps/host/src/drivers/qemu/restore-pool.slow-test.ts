import assert from "node:assert/strict";
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { waitFor } from "@platform/daemon";
import { groupsOf, guestOf, service, spec, startTestHost, type TestHost } from "../../testing.ts";
import { machineSettings, whyNoMachines, whyNoQemu } from "../microvm/testing/prepare.ts";
import { identity, machine, run } from "./testing/look.ts";

const skip = (await whyNoMachines()) ?? whyNoQemu() ?? false;
const waiting = 2;
const mib = 1024 * 1024;
const { limits } = spec();

const settings = {
  HOST_POOL_MIN: String(waiting),
  HOST_POOL_MAX: String(waiting),
  HOST_POOL_SHAPES: JSON.stringify([{ template: machine.template, limits }]),
  HOST_POOL_RESERVE_MIB: "0",
};

const filled = (host: TestHost) =>
  waitFor(
    "the pool to be filled",
    async () => {
      const { lanes } = await host.client.pool();
      return lanes.reduce((sum, { ready }) => sum + ready, 0) >= waiting;
    },
    900_000,
  );

const preparedOf = (host: TestHost) => join(host.dataDir, "microvm/prepared");

test(
  "machines wait as copies of one that was saved, and each is its caller's alone once claimed",
  { skip, timeout: 3_600_000 },
  async (t) => {
    const made = await machineSettings(t, machine.template);
    const host = await startTestHost(t, { driver: "qemu", ...made, ...settings });
    await filled(host);

    await t.test(
      "one machine of the kind was saved: devices apart from a memory without its gaps",
      async () => {
        const names = await readdir(preparedOf(host));
        assert.equal(names.length, 1);
        const at = (name: string) => stat(join(preparedOf(host), names[0] ?? "", name));
        const [devices, memory] = [await at("qemu-state"), await at("memory.img")];
        assert.ok(devices.size < 8 * mib, `${devices.size} bytes of devices`);
        assert.equal(memory.size, limits.memoryBytes);
        assert.ok(memory.blocks * 512 < limits.memoryBytes * 0.75, `${memory.blocks} blocks of memory`);
      },
    );

    const keys = ["box-first", "box-second"];
    await t.test("no two share a clock, name, key or randomness, and each has what it was told", async () => {
      const seen: string[] = [];
      for (const key of keys) {
        const services = [service("web", "sleep 10000", "always")];
        const told = spec({ ...machine, services, hostname: key, env: { CALLER: key } });
        const box = await host.client.putBox(key, told);
        assert.equal(box.bootPath, "pool");
        t.diagnostic(`claimed in ${box.bootMs} ms`);
        const { driftMs, lines } = await identity(t, host, key);
        assert.ok(driftMs < 1_000, `the clock of ${key} is ${driftMs} ms off`);
        seen.push(...lines);
        assert.equal(await run(t, host, key, "echo $CALLER; cat /etc/hostname"), `${key}\n${key}`);
        assert.equal((await guestOf(t, host, key).services.get("web")).status, "running");
      }
      assert.equal(new Set(seen).size, seen.length, seen.join(" "));
    });

    await t.test("a create that finds none waiting goes on from the saved one too", async () => {
      const key = "box-third";
      const names = new Set((await host.client.boxes()).map((box) => box.key));
      assert.deepEqual([...names].sort(), keys);
      // Its processes are others than the pool's shape has, its machine is the same.
      const other = { ...limits, maxProcesses: limits.maxProcesses - 1 };
      const box = await host.client.putBox(
        key,
        spec({ ...machine, limits: other, hostname: key, env: { CALLER: key } }),
      );
      assert.equal(box.bootPath, "snapshot");
      t.diagnostic(`begun in ${box.bootMs} ms`);
      assert.equal(await run(t, host, key, "echo $CALLER; hostname"), `${key}\n${key}`);
      await host.client.deleteBox(key);
    });

    await t.test("files that a claimed machine wrote are in a copy of it, with its programs", async () => {
      await run(t, host, "box-first", "echo kept > /workspace/note; echo alive > /tmp/note");
      const info = await host.client.putSnapshot("snapshot-claimed", "box-first");
      assert.equal(info.memoryOf, "qemu");
      const content = { type: "snapshot" as const, snapshotKey: "snapshot-claimed", withMemory: true };
      const copy = await host.client.putBox("box-copy", spec({ ...machine, content, hostname: "copy" }));
      assert.equal(copy.bootPath, "snapshot");
      assert.equal(
        await run(t, host, "box-copy", "cat /workspace/note /tmp/note; hostname"),
        "kept\nalive\ncopy",
      );
      await host.client.deleteBox("box-copy");
    });

    await t.test(
      "a daemon that was killed keeps the claimed ones, ends the rest and fills up again",
      async () => {
        await host.kill("SIGKILL");
        await host.start();
        assert.deepEqual((await host.client.boxes()).map(({ key, state }) => `${key} ${state}`).sort(), [
          "box-first running",
          "box-second running",
        ]);
        await filled(host);
        assert.equal(await run(t, host, "box-first", "cat /workspace/note"), "kept");
        assert.equal((await readdir(preparedOf(host))).length, 1);
      },
    );

    for (const key of keys) await host.client.deleteBox(key);
    await host.kill("SIGTERM");
    assert.deepEqual(await groupsOf(host.tag), []);
  },
);
