import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { forbiddenCalls, perlOf } from "./calls.ts";
import { openScene, ownKernel, skip } from "./scene.ts";

const notPermitted = 1;
const notImplemented = 38;

/** New ones of every kind, so that what is tried touches nothing. */
const namespaces = "--mount --uts --ipc --net --pid --cgroup --fork --mount-proc";
const noSuchFamily = 97;

test(
  "to the machine's root each of those calls is answered otherwise",
  { skip: skip || ownKernel },
  async (t) => {
    if (process.arch !== "x64") return t.skip("the numbers are those of x64");
    const folder = await mkdtemp(join(tmpdir(), "calls-"));
    t.after(() => rm(folder, { recursive: true }));
    const run = promisify(execFile);
    const asRoot = (command: string) =>
      run("unshare", [...namespaces.split(" "), "sh", "-c", command], { cwd: folder });
    const whyNot = await asRoot("true").then(
      () => null,
      (error: Error) => error.message,
    );
    if (whyNot !== null) return t.skip(`namespaces cannot be made here: ${whyNot}`);
    for (const call of forbiddenCalls) {
      const error = Number((await asRoot(perlOf(call))).stdout);
      // A family that this machine's kernel was built without.
      if (error === noSuchFamily) continue;
      assert.ok(!call.refusals.includes(error), `${call.what}: error ${error} says nothing about the box`);
    }
  },
);

test("calls that only attacks make are refused", { skip: skip || ownKernel }, async (t) => {
  if (process.arch !== "x64") return t.skip("the numbers are those of x64");
  const scene = await openScene(t);
  for (const call of forbiddenCalls) {
    await t.test(`a box cannot ${call.what}`, async () => {
      const error = Number(await scene.attack(perlOf(call)));
      assert.ok(call.refusals.includes(error), `it ended with error ${error}`);
    });
  }
  await t.test("a box cannot slip past the filter by the numbers of another kind of call (x32)", async () => {
    for (const number of [165, 272, 321]) {
      const error = await scene.attack(
        `perl -e '$!=0; syscall(0x40000000 + ${number},0,0,0,0,0); print 0+$!'`,
      );
      assert.equal(Number(error), notImplemented);
    }
  });
  await t.test("a box cannot slip past the filter by calls of 32-bit programs", async () => {
    const script = `
import ctypes, mmap
code = bytes([0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0xc3])  # getpid by int 0x80
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(code)
print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))())
`;
    assert.equal(await scene.python(script), String(-notPermitted));
  });
  await t.test("a box has no capability and cannot gain one by a setuid program", async () => {
    const status = await scene.attack(
      "grep -E 'CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs' /proc/self/status | tr -d '\\t\\n'",
    );
    const none = "0".repeat(16);
    assert.equal(status, `CapPrm:${none}CapEff:${none}CapBnd:${none}CapAmb:${none}NoNewPrivs:1`);
    await scene.attack("cp /usr/bin/id /workspace/id; chmod 6755 /workspace/id");
    assert.match(await scene.attack("/workspace/id -u; /usr/bin/su -c id root </dev/null; true"), /^1000/);
  });
  await scene.unharmed();
});
