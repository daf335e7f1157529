import assert from "node:assert/strict";
import { test } from "node:test";
import { waitFor } from "@platform/daemon";
import { groupsOf, spec, startTestHost } from "../../testing.ts";
import { findByArgument, killProcess } from "../linux/processes.ts";
import { machineSettings, whyNoMachines, whyNoQemu } from "../microvm/testing/prepare.ts";
import { identity, machine, run } from "./testing/look.ts";

const skip = (await whyNoMachines()) ?? whyNoQemu() ?? false;
test(
  "a box is a machine of its own, from its start to its last copy",
  { skip, timeout: 3_600_000 },
  async (t) => {
    const settings = await machineSettings(t, "minimal");
    const host = await startTestHost(t, { driver: "qemu", ...settings });
    const box = await host.client.putBox("box-machine", spec(machine));
    assert.equal(box.isolation?.driver, "qemu");
    assert.match(box.isolation.kernel, /^Linux 6\.1\./);
    assert.equal(
      await run(
        t,
        host,
        "box-machine",
        "id -un; ls /sys/class 2>/dev/null; tail -n +3 /proc/net/dev | cut -d: -f1",
      ),
      "user\n    lo",
    );
    await assert.rejects(host.client.putBox("box-host", spec({ ...machine, template: "host" })), {
      code: "INVALID",
    });

    await t.test("its files are frozen out of its disk while it stands still", async () => {
      await run(t, host, "box-machine", "mkdir sub; echo hi > sub/a; ln -s a sub/link; echo home > ~/b");
      const frozen = await host.client.freeze("box-machine", {});
      assert.equal(frozen.files, 1);
      assert.equal((await host.client.freeze("box-machine", {})).digest, frozen.digest);
      assert.equal(await run(t, host, "box-machine", "cat sub/a"), "hi");
    });

    await t.test("paused it does nothing, resumed it has the right time", async () => {
      await host.client.pause("box-machine");
      await host.client.resume("box-machine");
      assert.ok((await identity(t, host, "box-machine")).driftMs < 1_000);
    });

    await t.test("a daemon that was killed finds it running", async () => {
      await run(
        t,
        host,
        "box-machine",
        "(while :; do cat /proc/sys/kernel/random/uuid; sleep 0.5; done) > /tmp/ticks 2>&1 &",
      );
      await host.kill("SIGKILL");
      await host.start();
      assert.equal((await host.client.box("box-machine"))?.state, "running");
      const grows = "a=$(wc -l < /tmp/ticks); sleep 3; b=$(wc -l < /tmp/ticks); test $b -gt $a && echo grows";
      assert.equal(await run(t, host, "box-machine", `cat sub/a; ${grows}`), "hi\ngrows");
    });

    await t.test(
      "a program that wants too much memory is ended by the guest's kernel, which counts it",
      async () => {
        const before = (await host.client.stats("box-machine"))?.oomKills ?? 0;
        assert.match(await run(t, host, "box-machine", "tail /dev/zero; echo $?"), /^137$/m);
        const { oomKills, memoryLimitBytes } = (await host.client.stats("box-machine"))!;
        assert.ok((oomKills ?? 0) > before);
        assert.equal(memoryLimitBytes, spec().limits.memoryBytes);
      },
    );

    await t.test("copies go on with its processes, and share no clock, name, key or randomness", async () => {
      const info = await host.client.putSnapshot("snapshot-machine", "box-machine");
      assert.equal(info.memoryOf, "qemu");
      await host.client.deleteBox("box-machine");
      const seen: string[] = [];
      for (const key of ["box-copy-one", "box-copy-two"]) {
        const content = { type: "snapshot" as const, snapshotKey: "snapshot-machine", withMemory: true };
        const copy = await host.client.putBox(
          key,
          spec({ ...machine, content, hostname: key, env: { COPY: key } }),
        );
        assert.equal(copy.bootPath, "snapshot");
        const { driftMs, lines } = await identity(t, host, key);
        assert.ok(driftMs < 1_000, `the clock of ${key} is ${driftMs} ms off`);
        const ticks = await run(t, host, key, "sleep 1; tail -n 2 /tmp/ticks");
        assert.equal(
          await run(t, host, key, "cat sub/a ~/b; echo $COPY; hostname"),
          `hi\nhome\n${key}\n${key}`,
        );
        seen.push(...lines, ...ticks.split("\n"));
        await host.client.deleteBox(key);
      }
      assert.equal(new Set(seen).size, seen.length, seen.join(" "));
      const other = { ...spec().limits, memoryBytes: 768 * 1024 * 1024 };
      const content = { type: "snapshot" as const, snapshotKey: "snapshot-machine", withMemory: true };
      await assert.rejects(
        host.client.putBox("box-copy-other", spec({ ...machine, content, limits: other })),
        {
          code: "INVALID",
        },
      );
    });

    await t.test("a machine that was killed is reported as that", async () => {
      const content = { type: "snapshot" as const, snapshotKey: "snapshot-machine" };
      await host.client.putBox("box-killed", spec({ ...machine, content }));
      for (const found of await findByArgument(`box.${host.tag}.box-killed`))
        await killProcess(found.process);
      const failed = await waitFor(
        "the box to be failed",
        async () => {
          const seen = await host.client.box("box-killed");
          return seen?.state === "failed" ? seen : undefined;
        },
        30_000,
      );
      assert.equal(failed.failure?.reason, "killed");
      assert.equal((await host.client.freeze("box-killed", {})).files, 1);
      await host.client.deleteBox("box-killed");
    });
    assert.deepEqual(await groupsOf(host.tag), []);
  },
);
