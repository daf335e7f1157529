import assert from "node:assert/strict";
import { test } from "node:test";
import { waitFor } from "@platform/daemon";
import { guestOf, spec } from "../testing.ts";
import { mib, needsGroups, openScene, ownKernel, skip } from "./scene.ts";

const limits = { memoryBytes: 384 * mib, cpuMillis: 1000, maxProcesses: 256, diskBytes: 64 * mib };

/** Tables that one kernel keeps for all of its boxes. */
test(
  "what a kernel has only once for all cannot be used up by one box",
  { skip: skip || needsGroups || ownKernel },
  async (t) => {
    const scene = await openScene(t, { limits });
    const { attack, attacker, host, neighbour } = scene;
    /** Runs beside the test until it is stopped, with all that it took. */
    const hold = async (script: string, held: string) => {
      await attacker.writeFile("/workspace/hold.pl", script);
      await attacker.exec("rm -f held; (setsid perl hold.pl > held 2>&1 < /dev/null &)");
      await waitFor(
        "the attacker to hold what it can get",
        async () => (await attack("cat held")).includes(held),
        60_000,
      );
    };
    const release = () => attack("pkill -9 perl; true");

    await t.test("terminals: another box still opens one", async () => {
      await hold(
        `$| = 1; my @f; my $n = 0;
       for (1..24) { my $p = fork; next if $p; $n = 0;
         while (open(my $f, "+<", "/dev/ptmx")) { push @f, $f; last if ++$n > 900 }
         sleep 1000 }
       sleep 4; print "held"; sleep 1000;`,
        "held",
      );
      const { stdout } = await neighbour.exec('python3 -c \'import pty; pty.spawn(["echo", "a terminal"])\'');
      await release();
      assert.match(stdout, /a terminal/);
    });
    await t.test("watches of files: another box still watches", async () => {
      await hold(
        `$| = 1; my @f; while ((my $f = syscall(294, 0)) >= 0) { push @f, $f } print "held"; sleep 1000;`,
        "held",
      );
      const { stdout } = await neighbour.exec(
        `node -e 'require("fs").watch("/workspace",()=>{}).close();console.log("watched")'`,
      );
      await release();
      assert.equal(stdout, "watched\n");
    });
    await t.test("shared memory that no process holds counts as the box's and goes with it", async () => {
      await host.client.putBox("box-shm", spec({ limits }));
      const shm = guestOf(t, host, "box-shm");
      const script = `for (1..64) { my $id = shmget(0, ${32 * mib}, 01600) // last; shmwrite($id, "x" x ${32 * mib}, 0, ${32 * mib}) or last }`;
      await shm.exec(`perl -e '${script}'; true`, { timeoutMs: 60_000 }).catch(() => null);
      const used = (await host.client.stats("box-shm"))?.memoryBytes ?? 0;
      assert.ok(used <= limits.memoryBytes, `${used}`);
      await host.client.deleteBox("box-shm");
      await scene.unharmed();
    });
  },
);
