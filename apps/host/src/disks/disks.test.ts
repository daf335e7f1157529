import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdir, readdir, readFile, stat, statfs, truncate } from "node:fs/promises";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { waitFor } from "@platform/daemon";
import { HostError } from "@platform/host-api";
import { loopDevices, mounts } from "../drivers/linux/mounts.ts";
import { guestOf, spec, startTestHost, whyNoBoxes, type TestHost } from "../testing.ts";

const skip = whyNoBoxes() ?? (process.getuid?.() === 0 ? false : "only root may mount limited disks");
const mib = 1024 * 1024;
const limits = { memoryBytes: 512 * mib, cpuMillis: 1000, maxProcesses: 128, diskBytes: 48 * mib };

/** Skips where the machine has no loop devices. */
async function startLimitedHost(t: TestContext): Promise<TestHost | null> {
  const host = await startTestHost(t);
  const missing = (await host.client.doctor()).drivers[0]?.missing ?? [];
  if (!missing.includes("disk limit")) return host;
  t.skip("disks of limited size cannot be mounted here");
  return null;
}

/** Mounts and loop devices below a host's data folder. */
async function tracesOf(host: TestHost): Promise<string[]> {
  const folders = (await mounts()).map(({ folder }) => folder);
  const files = (await loopDevices()).map(({ file }) => file);
  return [...folders, ...files].filter((path) => path.startsWith(join(host.dataDir, "boxes")));
}

const fill = "head -c 1G /dev/zero > /workspace/big; head -c 1G /dev/zero > /home/user/big; sync";

test(
  "a box that fills its disk is told so, and the machine's disk and everyone else's are not touched",
  { skip },
  async (t) => {
    const host = await startLimitedHost(t);
    if (!host) return;
    await host.client.putBox("box-glutton", spec({ limits }));
    await host.client.putBox("box-modest", spec({ limits }));
    const guest = guestOf(t, host, "box-glutton");
    await guest.exec("echo kept > /workspace/kept; sync");
    const filled = await guest.exec(fill);
    assert.match(filled.stderr, /No space left on device/);
    const image = await stat(join(host.dataDir, "boxes/box-glutton/disk.img"));
    assert.ok(image.blocks * 512 < 64 * mib, `the image takes ${image.blocks * 512} bytes`);
    const stats = await host.client.stats("box-glutton");
    assert.equal(stats?.diskLimitBytes, 48 * mib);
    assert.ok((stats.diskBytes ?? 0) > 47 * mib, JSON.stringify(stats));
    await assert.rejects(guest.writeFile("/workspace/more", Buffer.alloc(mib)), /space|ENOSPC|disk/i);
    assert.equal((await guest.exec("cat /workspace/kept")).stdout, "kept\n");
    const frozen = await host.client.freeze("box-glutton", { exclude: ["big"] });
    assert.equal(frozen.files, 1);
    await host.client.pause("box-glutton");
    await host.client.resume("box-glutton");
    assert.equal(
      (await guest.exec("rm /workspace/big && echo more > /workspace/more && cat /workspace/more")).stdout,
      "more\n",
    );
    await guestOf(t, host, "box-modest").writeFile("/workspace/file", Buffer.alloc(8 * mib));
  },
);

test("a box that makes files without end stops at its limit of files", { skip }, async (t) => {
  const host = await startLimitedHost(t);
  if (!host) return;
  await host.client.putBox("box-litter", spec({ limits: { ...limits, maxFiles: 2000 } }));
  const before = await statfs(host.dataDir);
  const guest = guestOf(t, host, "box-litter");
  const made = await guest.exec(
    `perl -e 'for (my $n = 0; $n < 100000; $n++) { open(my $f, ">", "/workspace/$n") or die "$n $!" }'`,
  );
  assert.match(made.stderr, /No space left on device/);
  const stats = await host.client.stats("box-litter");
  assert.equal(stats?.filesLimit, 2000);
  assert.ok((stats.files ?? 0) >= 2000, JSON.stringify(stats));
  assert.ok(before.ffree - (await statfs(host.dataDir)).ffree < 1000);
  assert.equal((await guest.exec("echo still here")).stdout, "still here\n");
});

test(
  "folders that a box shares with its host cannot be filled beyond a few mebibytes",
  { skip },
  async (t) => {
    const host = await startLimitedHost(t);
    if (!host) return;
    await host.client.putBox("box-stuffer", spec({ limits }));
    const guest = guestOf(t, host, "box-stuffer");
    const script = "head -c 100M /dev/zero > /run/agent/big; head -c 100M /dev/zero > /var/log/services/big";
    assert.match((await guest.exec(script)).stderr, /No space left on device/);
    const root = join(host.dataDir, "boxes/box-stuffer");
    const used = Number(execFileSync("du", ["-s", "-x", "-B1", root]).toString().split("\t")[0]);
    assert.ok(used < 64 * mib, `the box takes ${used} bytes of the machine's disk`);
    await host.client.pause("box-stuffer");
    await host.kill("SIGKILL");
    await host.start();
    await host.client.resume("box-stuffer").catch(() => undefined); // It may have shut its own door.
    await host.client.deleteBox("box-stuffer");
    assert.deepEqual(await tracesOf(host), []);
  },
);

test(
  "disks stay mounted while a daemon is away, and a deleted box leaves neither mount nor device",
  { skip },
  async (t) => {
    const host = await startLimitedHost(t);
    if (!host) return;
    await host.client.putBox("box-lasting", spec({ limits }));
    await guestOf(t, host, "box-lasting").exec("echo before > /workspace/file && sync");
    await host.kill("SIGKILL");
    await host.start();
    const guest = guestOf(t, host, "box-lasting");
    assert.equal(
      (await guest.exec("echo after >> /workspace/file && cat /workspace/file")).stdout,
      "before\nafter\n",
    );
    assert.equal((await host.client.freeze("box-lasting", {})).files, 1);
    await host.client.deleteBox("box-lasting");
    assert.deepEqual(await tracesOf(host), []);
    assert.deepEqual(await readdir(join(host.dataDir, "boxes")), []);
  },
);

test("after a restart of the machine a box's files can still be read", { skip }, async (t) => {
  const host = await startLimitedHost(t);
  if (!host) return;
  await host.client.putBox("box-reborn", spec({ limits }));
  await guestOf(t, host, "box-reborn").exec("echo kept > /workspace/file && sync");
  const root = join(host.dataDir, "boxes/box-reborn");
  const state = JSON.parse(await readFile(join(root, "state.json"), "utf8")) as {
    driverState: { init: { pid: number } };
  };
  await host.kill("SIGKILL");
  process.kill(state.driverState.init.pid, "SIGKILL");
  for (const name of ["disk", "run"]) {
    await waitFor(
      `${name} to be free`,
      () => {
        execFileSync("umount", [join(root, name)], { stdio: "pipe" });
        return true;
      },
      10_000,
    );
  }
  await waitFor("the loop device to be free", async () => (await tracesOf(host)).length === 0, 10_000);
  await host.start();
  assert.equal((await host.client.box("box-reborn"))?.state, "failed");
  const { digest } = await host.client.freeze("box-reborn", {});
  await host.client.putBox("box-second", spec({ limits, content: { type: "source", digest } }));
  assert.equal((await guestOf(t, host, "box-second").exec("cat /workspace/file")).stdout, "kept\n");
});

test(
  "a snapshot that does not fit on the new disk is refused with what to do, and fits on a larger one",
  { skip },
  async (t) => {
    const host = await startLimitedHost(t);
    if (!host) return;
    await host.client.putBox("box-large", spec({ limits }));
    await guestOf(t, host, "box-large").exec("head -c 40M /dev/urandom > /workspace/big && sync");
    await host.client.putSnapshot("snapshot-large", "box-large");
    const content = { type: "snapshot" as const, snapshotKey: "snapshot-large" };
    await assert.rejects(
      host.client.putBox("box-small", spec({ content, limits: { ...limits, diskBytes: 16 * mib } })),
      (error: unknown) =>
        error instanceof HostError && error.code === "DISK_FULL" && /larger disk/.test(error.message),
    );
    assert.equal(await host.client.box("box-small"), null);
    await host.client.putBox("box-equal", spec({ content, limits }));
    assert.equal(
      (await guestOf(t, host, "box-equal").exec("stat -c %s /workspace/big")).stdout,
      `${40 * mib}\n`,
    );
  },
);

test("mounts and loop devices that a dead daemon left are freed by the next one", { skip }, async (t) => {
  const host = await startLimitedHost(t);
  if (!host) return;
  await host.kill("SIGKILL");
  const root = join(host.dataDir, "boxes/box-forgotten");
  await mkdir(join(root, "disk"), { recursive: true });
  execFileSync("mkfs.ext4", ["-q", join(root, "disk.img"), "16M"]);
  execFileSync("mount", ["-o", "loop", join(root, "disk.img"), join(root, "disk")]);
  execFileSync("mkfs.ext4", ["-q", join(root, "other.img"), "16M"]);
  execFileSync("losetup", ["-f", join(root, "other.img")]);
  await host.start();
  assert.deepEqual(await tracesOf(host), []);
  assert.deepEqual(await readdir(join(host.dataDir, "boxes")), []);
});

test("a disk whose image was damaged costs its box, never the daemon its start", { skip }, async (t) => {
  const host = await startLimitedHost(t);
  if (!host) return;
  await host.client.putBox("box-broken", spec({ limits }));
  await host.client.putBox("box-whole", spec({ limits }));
  const root = join(host.dataDir, "boxes/box-broken");
  const state = JSON.parse(await readFile(join(root, "state.json"), "utf8")) as {
    driverState: { init: { pid: number } };
  };
  await host.kill("SIGKILL");
  process.kill(state.driverState.init.pid, "SIGKILL");
  await waitFor(
    "the disk to be free",
    () => {
      execFileSync("umount", [join(root, "disk")], { stdio: "pipe" });
      return true;
    },
    10_000,
  );
  await truncate(join(root, "disk.img"), 0);
  await host.start();
  assert.equal((await host.client.box("box-broken"))?.state, "failed");
  assert.equal((await host.client.box("box-whole"))?.state, "running");
  await host.client.deleteBox("box-broken");
  assert.equal(await host.client.box("box-broken"), null);
});
