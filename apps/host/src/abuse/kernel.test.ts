import assert from "node:assert/strict";
import { test } from "node:test";
import { openScene, ownKernel, skip } from "./scene.ts";

const notPermitted = 1;
const notImplemented = 38;
const invalid = 22;

/** Numbers of x64; the arguments are such that a call that is let through does not answer with its refusal. */
const calls: readonly [what: string, call: string, refusals: readonly number[]][] = [
  ["mount a file system", "165,q(none),q(/tmp),q(tmpfs),0,0", [notPermitted]],
  ["unmount one", "166,q(/proc),2", [notPermitted]],
  ["change its root", "155,q(/tmp),q(/tmp)", [notPermitted]],
  ["use the new calls for mounts", "430,q(tmpfs),0", [notPermitted]],
  ["clone a tree of mounts", "428,-100,q(/usr),1", [notPermitted]],
  ["make a user namespace by unshare", "272,0x10000000", [notPermitted]],
  ["make a user namespace by clone", "56,0x10000011,0,0,0,0", [notPermitted]],
  ["make one by clone3, whose flags no filter sees", "435,0,0", [notImplemented]],
  ["enter a namespace", "308,0,0x40000000", [notPermitted]],
  ["load a BPF program", "321,0,0,0", [notPermitted]],
  ["use keyrings", "250,0,-3,0", [notPermitted]],
  ["add a key", "248,q(user),q(name),q(x),1,-3", [notPermitted]],
  ["catch page faults of the kernel", "323,0", [notPermitted]],
  ["set up io_uring", "425,1,0", [notPermitted]],
  ["enter io_uring", "426,0,0,0,0,0,0", [notPermitted]],
  ["measure the machine's performance counters", "298,0,0,-1,-1,0", [notPermitted]],
  ["load a module", "175,0,0,q()", [notPermitted]],
  ["load a module from a file", "313,0,q(),0", [notPermitted]],
  ["start another kernel", "246,0,0,0,0", [notPermitted]],
  ["restart the machine", "169,0xfee1dead,672274793,0,0", [notPermitted]],
  ["set the clock", "227,0,q(aaaaaaaaaaaaaaaa)", [notPermitted]],
  ["set the time of day", "164,q(aaaaaaaaaaaaaaaa),0", [notPermitted]],
  ["read the kernel's log", "103,3,0,0", [notPermitted]],
  ["switch on swap", "167,q(/tmp/x),0", [notPermitted]],
  ["open a file by its handle, past every folder", "304,-100,q(x),0", [notPermitted]],
  ["watch the whole file system", "300,0,0", [notPermitted]],
  ["push input into a terminal", "16,0,0x5412,q()", [notPermitted]],
  ["get raw ports", "172,3", [notPermitted]],
  ["follow the host's first process", "101,16,999999,0,0", [notPermitted, 3]],
  ["change its root folder without a namespace", "161,q(/tmp)", [notPermitted]],
  ["make a device node", "133,q(/workspace/disk),0x6180,0xfe00", [notPermitted]],
  ["become root", "105,0", [notPermitted, invalid]],
  ["rename the machine", "170,q(owned),5", [notPermitted]],
];

test("calls that only attacks make are refused", { skip: skip || ownKernel }, async (t) => {
  if (process.arch !== "x64") return t.skip("the numbers are those of x64");
  const scene = await openScene(t);
  for (const [what, call, refusals] of calls) {
    await t.test(`a box cannot ${what}`, async () => {
      const error = Number(
        await scene.attack(
          `perl -e 'my @a = (${call}); my $n = shift @a; $!=0; syscall($n, @a); print 0+$!' 2>&1`,
        ),
      );
      assert.ok(refusals.includes(error), `it ended with error ${error}`);
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
  await t.test("a box cannot open raw or packet sockets", async () => {
    for (const [family, type] of [
      [2, 3],
      [17, 3],
      [16, 3],
    ]) {
      const made = await scene.attack(
        `perl -e 'print socket(my $s, ${family}, ${type}, 255) ? "open" : "refused"; ' 2>&1`,
      );
      if (family !== 16) assert.equal(made, "refused", `family ${family}`);
    }
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
