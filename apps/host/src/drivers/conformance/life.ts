import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { waitFor } from "@platform/daemon";
import { HostError } from "@platform/host-api";
import { groupsOf, service, type TestHost } from "../../testing.ts";
import { NotRunHere, Unsupported, type Capability, type Scene } from "./capability.ts";

const hasCode = (code: string) => (error: unknown) => error instanceof HostError && error.code === code;

const pause: Capability = {
  name: "a paused box keeps its memory and runs on after it is resumed",
  async prove(t, scene) {
    if (!scene.report.can.includes("pause")) throw new Unsupported("the driver cannot hold boxes still here");
    const key = await scene.standing("plain");
    const { client } = scene.host;
    await scene.run(t, key, "mkdir -p /tmp/kept; echo here > /tmp/kept/note");
    const { pid, uptimeMs } = await scene.guest(t, key).ready();
    assert.equal((await client.pause(key)).state, "paused");
    await assert.rejects(client.dialPort(key, 80), hasCode("BOX_PAUSED"));
    const still = (await client.stats(key))?.cpuMicros;
    assert.equal((await client.stats(key))?.cpuMicros, still);
    assert.equal((await client.resume(key)).state, "running");
    const again = await scene.guest(t, key).ready();
    assert.equal(again.pid, pid);
    assert.ok(again.uptimeMs >= uptimeMs);
    assert.equal(await scene.run(t, key, "cat /tmp/kept/note"), "here");
  },
};

const snapshot: Capability = {
  name: "a snapshot holds the files of its moment, and a new box begins with them",
  async prove(t, scene) {
    const key = await scene.standing("plain");
    const { client } = scene.host;
    await scene.run(t, key, "echo first > /workspace/page; ln -sf page /workspace/link; echo home > ~/kept");
    t.after(() => client.deleteSnapshot("snapshot-files"));
    const info = await client.putSnapshot("snapshot-files", key);
    assert.ok(info.sizeBytes > 0);
    await scene.run(t, key, "echo second > /workspace/page");
    const content = { type: "snapshot", snapshotKey: "snapshot-files" } as const;
    const copy = await scene.fresh(t, "box-copied", { content });
    assert.equal(
      await scene.run(t, copy, "cat /workspace/page /workspace/link ~/kept"),
      "first\nfirst\nhome",
    );
    assert.equal(await scene.run(t, key, "cat /workspace/page"), "second");
  },
};

const fork: Capability = {
  name: "copies of one box are boxes of their own",
  async prove(t, scene) {
    const key = await scene.standing("plain");
    const { client } = scene.host;
    t.after(() => client.deleteSnapshot("snapshot-fork"));
    await client.putSnapshot("snapshot-fork", key);
    const content = { type: "snapshot", snapshotKey: "snapshot-fork" } as const;
    const copies = ["box-fork-one", "box-fork-two"];
    await Promise.all(copies.map((copy) => scene.fresh(t, copy, { content, hostname: copy })));
    const drawn = new Set<string>();
    for (const copy of copies) {
      const random = "head -c 16 /dev/urandom | od -An -tx1";
      drawn.add(await scene.run(t, copy, `touch /workspace/only-${copy}; ${random}`));
    }
    assert.equal(drawn.size, copies.length);
    for (const copy of [...copies, key]) {
      const seen = await scene.run(t, copy, "hostname; ls /workspace | grep only");
      assert.equal(seen, copy === key ? "studio" : `${copy}\nonly-${copy}`);
    }
  },
};

const checkpoint: Capability = {
  name: "a snapshot with memory goes on in a new box where the first one was",
  async prove(t, scene) {
    if (!scene.report.can.includes("checkpoint")) {
      throw new Unsupported("the driver saves no memory; its snapshots hold files");
    }
    const { client } = scene.host;
    const counter = `node -e 'let n=0;setInterval(()=>require("fs").writeFileSync("/tmp/n",String(++n)),50)'`;
    const services = [service("counter", counter)];
    const key = await scene.fresh(t, "box-saved", { services });
    const count = async (box: string) => Number(await scene.run(t, box, "cat /tmp/n || echo 0"));
    const reached = await waitFor(
      "the count",
      async () => ((await count(key)) > 20 ? count(key) : undefined),
      scene.patience(30_000),
    );
    t.after(() => client.deleteSnapshot("snapshot-memory"));
    await client.putSnapshot("snapshot-memory", key);
    const content = { type: "snapshot", snapshotKey: "snapshot-memory" } as const;
    const copy = await scene.fresh(t, "box-resumed", { services, content });
    assert.ok((await count(copy)) >= reached, "the count starts again: the copy has none of the memory");
    const clock = Number(await scene.run(t, copy, "date +%s"));
    assert.ok(Math.abs(clock - Date.now() / 1000) < 10, "the copy lives in the past");
  },
};

const adoption: Capability = {
  name: "boxes outlive a killed host daemon, and the next one has them again",
  async prove(t, scene) {
    const key = await scene.standing("plain");
    const { pid, uptimeMs } = await scene.guest(t, key).ready();
    await scene.host.kill("SIGKILL");
    await scene.host.start();
    assert.equal((await scene.host.client.box(key))?.state, "running");
    const after = await scene.guest(t, key).ready();
    assert.equal(after.pid, pid);
    assert.ok(after.uptimeMs >= uptimeMs);
    const refused = `curl -s -m ${scene.patience(20)} -o /dev/null -w '%{http_code}' http://198.51.100.7/`;
    assert.equal(await scene.run(t, key, refused), "403");
  },
};

async function processesOf(host: TestHost, key: string): Promise<number[]> {
  const pids = new Set<number>();
  for (const group of await groupsOf(host.tag)) {
    if (!group.endsWith(`/${key}`)) continue;
    const text = await readFile(join(group, "cgroup.procs"), "utf8").catch(() => "");
    for (const pid of text.split("\n").filter(Boolean)) pids.add(Number(pid));
  }
  for (const name of (await readdir("/proc")).filter((entry) => /^\d+$/.test(entry))) {
    const line = await readFile(`/proc/${name}/cmdline`, "utf8").catch(() => "");
    const isOurs = line.includes(host.tag) || line.includes(host.dataDir);
    if (isOurs && line.split("\0").some((part) => part.endsWith(key))) pids.add(Number(name));
  }
  return [...pids];
}

/** Everything on this machine that belongs to the box. */
async function traces(scene: Scene, key: string): Promise<string[]> {
  const { host } = scene;
  const found = (await groupsOf(host.tag)).filter((folder) => folder.endsWith(`/${key}`));
  found.push(...(await processesOf(host, key)).map((pid) => `process ${pid}`));
  const mounts = (await readFile("/proc/self/mountinfo", "utf8")).split("\n");
  found.push(...mounts.filter((line) => line.includes(host.dataDir) && line.includes(`/${key}`)));
  const folders = await readdir(host.dataDir, { recursive: true });
  found.push(...folders.filter((path) => path.split("/").at(-1) === key));
  return found;
}

const isGone = async (pid: number) =>
  / Z /.test(await readFile(`/proc/${pid}/stat`, "latin1").catch(() => " Z "));

const removal: Capability = {
  name: "a deleted box leaves no process, mount, control group or file",
  async prove(t, scene) {
    const key = await scene.fresh(t, "box-leaving");
    await scene.guest(t, key).exec("sh -c 'sleep 1000 & setsid sleep 1000 &'");
    const pids = await processesOf(scene.host, key);
    assert.notEqual(pids.length, 0);
    await scene.host.client.deleteBox(key);
    assert.deepEqual(await traces(scene, key), []);
    assert.deepEqual(
      await Promise.all(pids.map(isGone)),
      pids.map(() => true),
    );
    assert.equal(await scene.host.client.box(key), null);
  },
};

const ownUsers: Capability = {
  name: "no process of a box is the machine's root",
  async prove(_t, scene) {
    if (process.getuid?.() !== 0) throw new NotRunHere("the host daemon is not root, nor are its boxes");
    const pids = await processesOf(scene.host, await scene.standing("plain"));
    assert.notEqual(pids.length, 0);
    for (const pid of pids) {
      const status = await readFile(`/proc/${pid}/status`, "utf8").catch(() => "Uid:\t1");
      assert.doesNotMatch(status, /^Uid:\s+0\b/m, `process ${pid}`);
    }
  },
};

const death: Capability = {
  name: "a box killed from outside is reported failed, with the reason, and can be deleted",
  async prove(t, scene) {
    const key = await scene.fresh(t, "box-shot");
    for (const pid of await processesOf(scene.host, key)) {
      try {
        process.kill(pid, "SIGKILL");
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
      }
    }
    const box = await waitFor(
      "the failure",
      async () => {
        const seen = await scene.host.client.box(key);
        return seen?.state === "failed" ? seen : undefined;
      },
      scene.patience(20_000),
    );
    assert.equal(box.failure?.reason, "killed", JSON.stringify(box.failure));
    await scene.host.client.deleteBox(key);
    assert.deepEqual(await traces(scene, key), []);
  },
};

export const life = [pause, snapshot, fork, checkpoint, adoption, ownUsers, removal, death];
