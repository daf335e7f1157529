import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { chmod, mkdir, mkdtemp, readFile, rm, stat, symlink, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { test, type TestContext } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { waitFor } from "@platform/daemon";
import { foldersAt } from "../box-folders.ts";
import type { BoxFolders } from "../driver.ts";
import { findByArgument, isAlive, killProcess } from "../linux/processes.ts";
import { Session } from "../microvm/session.ts";
import type { MachinePlan } from "../microvm/vmm.ts";
import { FirecrackerRefusal } from "./api.ts";
import { FirecrackerVmm } from "./firecracker.ts";

const isRoot = process.getuid?.() === 0;
const hasCompiler = spawnSync("gcc", ["--version"]).status === 0;
const skip = !isRoot
  ? "only root starts the jailer"
  : hasCompiler
    ? false
    : "there is no C compiler: apt-get install gcc";
const mib = 1024 * 1024;
const signal = AbortSignal.timeout(600_000);
/** The control socket alone is asked. */
const nobody = { supervisor: { pid: 0, startTicks: "0" }, init: { pid: 0, startTicks: "0" } };

interface Bench {
  readonly folder: string;
  readonly vmm: FirecrackerVmm;
  readonly plan: (key: string, from?: string) => Promise<MachinePlan>;
  readonly requests: () => Promise<string[]>;
  readonly running: () => Promise<number>;
}

/** The driver's Firecracker part over the model; everything it started ends with the test. */
async function startBench(t: TestContext, answerTimeoutMs?: number): Promise<Bench> {
  const folder = await mkdtemp(join(tmpdir(), "firecracker-"));
  const at = (...names: string[]) => join(folder, ...names);
  const tag = `fc${process.pid}${Math.random().toString(36).slice(2, 8)}`;
  const source = resolve(import.meta.dirname, "../../../../guest/microvm");
  const files = ["frames.c", "bridge.c", "testing/bridge-main.c"].map((name) => join(source, name));
  execFileSync("gcc", ["-O1", "-o", at("bridge"), ...files]);
  const agent = createServer({ allowHalfOpen: true }, (socket) => void socket.pipe(socket)).listen(
    at("guest.sock"),
  );
  const jailer = `#!/bin/sh\nexec ${process.execPath} ${join(import.meta.dirname, "testing/model.ts")} ${folder} "$@"\n`;
  await writeFile(at("jailer"), jailer, { mode: 0o755 });
  await mkdir(at("kit"));
  for (const name of ["kit/kernel", "kit/initrd", "root.ext4", "tools.ext4"]) await writeFile(at(name), name);
  const running = async () => (await findByArgument(`box.${tag}.`, true)).length;
  t.after(async () => {
    for (const { process: found } of await findByArgument(`box.${tag}.`, true)) {
      await killProcess(found);
      await waitFor("it to end", async () => !(await isAlive(found)), 10_000);
    }
    agent.close();
    await rm(folder, { recursive: true, force: true });
  });
  const plan = async (key: string, from?: string): Promise<MachinePlan> => {
    const folders: BoxFolders = foldersAt(at(key), { uid: 231_000, gid: 231_000 }, "folders");
    await mkdir(folders.log, { recursive: true });
    await chmod(folders.root, 0o711);
    await writeFile(join(folders.root, "disk.img"), key);
    const shape = {
      memoryBytes: 256 * mib,
      cores: 1,
      diskBytes: mib,
      rootDisk: at("root.ext4"),
      toolsDisk: at("tools.ext4"),
    };
    return {
      ...{ key, folders, shape, memoryBytes: 256 * mib, cores: 1, marker: `box.${tag}.${key}` },
      kit: { folder: at("kit"), kernelVersion: "none", digest: "none" },
      from: from ?? null,
      beforeExec: async () => undefined,
    };
  };
  const requests = async () => (await readFile(at("requests"), "utf8")).trim().split("\n");
  const vmm = new FirecrackerVmm(
    { firecracker: "/opt/firecracker", jailer: at("jailer") },
    tag,
    answerTimeoutMs,
  );
  return { folder, vmm, plan, requests, running };
}

async function greeted(vmm: FirecrackerVmm, folders: BoxFolders): Promise<Session> {
  for (;;) {
    signal.throwIfAborted();
    const port = await vmm.dial(folders).catch(() => null);
    if (port) {
      const session = new Session(port, {
        onOutbound: (stream) => stream.destroy(),
        onClose: () => undefined,
      });
      await session.greeted(AbortSignal.timeout(20_000));
      return session;
    }
    await delay(20); // The guest's own start: it is refused until it listens.
  }
}

test(
  "a machine is described in Firecracker's own terms, started, and reached by vsock",
  { skip },
  async (t) => {
    const { vmm, plan, requests } = await startBench(t);
    const machine = await plan("box-first");
    await vmm.start(machine, signal);
    assert.deepEqual(
      (await requests()).filter((line) => !line.startsWith("GET")),
      [
        ...["PUT /metrics", "PUT /machine-config", "PUT /boot-source"],
        ...["PUT /drives/root", "PUT /drives/tools", "PUT /drives/box"],
        ...["PUT /vsock", "PUT /entropy", "PUT /balloon", "PUT /actions"],
      ],
    );
    const session = await greeted(vmm, machine.folders);
    const stream = session.open();
    stream.end("hello");
    let text = "";
    for await (const chunk of stream) text += String(chunk);
    assert.equal(text, "hello");
    session.close();
  },
);

test("pause and resume may be repeated, also by the daemon that comes after", { skip }, async (t) => {
  const { vmm, plan, requests } = await startBench(t);
  const machine = await plan("box-still");
  const { init } = await vmm.start(machine, signal);
  const changes = async () => (await requests()).filter((line) => line === "PATCH /vm").length;
  await vmm.pause(machine.folders);
  await vmm.pause(machine.folders);
  assert.equal(await changes(), 1);
  await vmm.resume(machine.folders);
  await vmm.resume(machine.folders);
  assert.equal(await changes(), 2);
  assert.ok(await isAlive(init));
  (await greeted(vmm, machine.folders)).close();
});

test(
  "a saved machine goes on in copies that share its files, also after it was restored itself",
  { skip },
  async (t) => {
    const { folder, vmm, plan } = await startBench(t);
    const original = await plan("box-saved");
    await vmm.start(original, signal);
    const save = async (folders: BoxFolders, name: string) => {
      const into = join(folder, name);
      await mkdir(into);
      await vmm.pause(folders);
      await vmm.save(folders, nobody, into);
      await vmm.resume(folders);
      return into;
    };
    await assert.rejects(vmm.save(original.folders, nobody, folder), FirecrackerRefusal);
    const saved = await save(original.folders, "snapshot");
    for (const key of ["box-copy-one", "box-copy-two"]) {
      const copy = await plan(key, saved);
      await vmm.start(copy, signal);
      await assert.rejects(vmm.save(copy.folders, nobody, join(folder, "none")), /ENOENT|EXDEV/);
      await vmm.resume(copy.folders);
      (await greeted(vmm, copy.folders)).close();
    }
    const again = await plan("box-copy-three", await save((await plan("box-copy-one")).folders, "second"));
    await vmm.start(again, signal);
    await vmm.resume(again.folders);
    (await greeted(vmm, again.folders)).close();
  },
);

test("a refusal is told in Firecracker's words and leaves nothing running", { skip }, async (t) => {
  const { folder, vmm, plan, running } = await startBench(t);
  await writeFile(join(folder, "fault"), "refusal at PUT /vsock");
  await assert.rejects(vmm.start(await plan("box-refused"), signal), (error) => {
    return error instanceof FirecrackerRefusal && error.status === 400 && /as told/.test(error.message);
  });
  await waitFor("nothing to run", async () => (await running()) === 0, 10_000);
});

test(
  "a Firecracker that dies or falls silent half-way is given up, and leaves nothing running",
  { skip },
  async (t) => {
    const { folder, vmm, plan, running } = await startBench(t, 3_000);
    await writeFile(join(folder, "fault"), "die at PUT /drives/box");
    await assert.rejects(
      vmm.start(await plan("box-dead"), signal),
      /Firecracker failed at PUT \/drives\/box/,
    );
    await writeFile(join(folder, "fault"), "silence at PUT /actions");
    await assert.rejects(vmm.start(await plan("box-silent"), signal), /did not answer within 3000 ms/);
    await waitFor("nothing to run", async () => (await running()) === 0, 10_000);
  },
);

test("what Firecracker counts of its machine stays small on the host's disk", { skip }, async (t) => {
  const { vmm, plan, folder } = await startBench(t);
  const machine = await plan("box-counted");
  await vmm.start(machine, signal);
  const metrics = join(machine.folders.root, "vm/firecracker/box-counted/root/metrics");
  await writeFile(metrics, "{}\n".repeat(200_000));
  await vmm.tend(machine.folders);
  assert.equal((await stat(metrics)).size, 0);
  const elsewhere = join(folder, "elsewhere");
  await writeFile(elsewhere, "{}\n".repeat(200_000));
  await rm(metrics);
  await symlink(elsewhere, metrics);
  await vmm.tend(machine.folders);
  assert.equal((await stat(elsewhere)).size, 600_000);
});
