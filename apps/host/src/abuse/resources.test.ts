import assert from "node:assert/strict";
import { readdir, readFile, stat, statfs } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { waitFor } from "@platform/daemon";
import type { GuestClient } from "@platform/guest-protocol";
import { HostError } from "@platform/host-api";
import { groupsOf, guestOf, service, spec } from "../testing.ts";
import { mib, needsGroups, openScene, ownKernel, skip } from "./scene.ts";

const limits = {
  ...{ memoryBytes: 384 * mib, cpuMillis: 500, maxProcesses: 64, diskBytes: 64 * mib },
  ...{ maxFiles: 4000, networkBytesPerSecond: 20 * mib },
};
const flood = service("flood", "exec 2>&1; while :; do head -c 1M /dev/zero | tr '\\0' 'x'; echo; done");
const web = service(
  "web",
  `node -e 'require("http").createServer((q,s)=>s.end("ok")).listen(8200,"0.0.0.0")'`,
);

async function textOf(guest: GuestClient, path: string): Promise<string> {
  let text = "";
  for await (const chunk of await guest.readFile(path)) text += String(chunk);
  return text.trim();
}

/** What the machine's kernel gives each task of the boxes of one host: niceness, and 0 for no real-time policy. */
async function prioritiesOf(tag: string): Promise<{ nice: number; policy: number }[]> {
  const found = new Map<string, { nice: number; policy: number }>();
  for (const folder of await groupsOf(tag)) {
    if (!folder.endsWith("box-attacker")) continue;
    const pids = await readFile(join(folder, "cgroup.procs"), "utf8").catch(() => "");
    for (const pid of pids.split("\n").filter(Boolean))
      for (const task of await readdir(`/proc/${pid}/task`).catch(() => [])) {
        const text = await readFile(`/proc/${pid}/task/${task}/stat`, "utf8").catch(() => "");
        const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
        // proc_pid_stat(5): fields 19 and 41, of which the first two are left out here.
        if (fields.length > 38) found.set(task, { nice: Number(fields[16]), policy: Number(fields[38]) });
      }
  }
  assert.ok(found.size > 0, "the box has tasks");
  return [...found.values()];
}

test("a box that takes all it can get takes it from itself", { skip: skip || needsGroups }, async (t) => {
  const scene = await openScene(t, { limits, services: [flood, web] });
  const { attack, attacker, host } = scene;
  const { client } = host;

  await t.test("a service that logs without end leaves a few mebibytes", async () => {
    await waitFor(
      "the log to be moved aside",
      async () => (await attack("ls /var/log/services")).includes("flood.log.1"),
      60_000,
    );
    assert.ok(Number(await attack("du -sm /var/log/services | cut -f1")) <= 9);
    await attacker.services.remove("flood");
  });
  await t.test("what processes say to the host's own log is bounded", { skip: ownKernel }, async () => {
    await attacker.exec("timeout 3 sh -c 'yes > /proc/2/fd/2'; true", { timeoutMs: 20_000 });
    const log = await stat(join(host.dataDir, "boxes/box-attacker/log/agent.log"));
    assert.ok(log.size <= 256 * 1024, `${log.size} bytes`);
  });
  await t.test("a bomb of processes reaches its limit, and the host still ends it", async () => {
    // A shell would end at the first refusal, and the bomb with it.
    const bomb = service(
      "bomb",
      `exec perl -e 'for (;;) { defined fork or select undef, undef, undef, 0.1 }'`,
    );
    await client.putBox("box-bomb", spec({ limits, services: [bomb] }));
    if (ownKernel) {
      // It may fork faster than its kernel counts: then the machine's own limit ends the box, and says so.
      const box = await waitFor(
        "the end of the box",
        async () => {
          const now = await client.box("box-bomb");
          return now?.state === "failed" ? now : undefined;
        },
        15_000,
      ).catch(() => null);
      if (box) assert.ok(["too_many_processes", "oom"].includes(box.failure!.reason), JSON.stringify(box));
      else {
        const count = await textOf(guestOf(t, host, "box-bomb"), "/sys/fs/cgroup/pids/box/pids.current");
        assert.ok(Number(count) <= 64 + 24, count);
      }
    } else {
      const processes = async () => (await client.stats("box-bomb"))?.processes ?? 0;
      await waitFor("the limit to be reached", async () => (await processes()) >= 70, 30_000);
      assert.ok((await processes()) <= 64 + 24);
    }
    await scene.unharmed();
    await client.deleteBox("box-bomb");
    assert.ok((await groupsOf(host.tag)).every((folder) => !folder.endsWith("box-bomb")));
  });
  await t.test("zombies are bounded and end with their parent", async () => {
    const zombies = (most: number) =>
      attack(
        `perl -e 'for (1..${most}) { my $p = fork; last if !defined $p; exit 0 if $p == 0; $n++ } print $n'`,
      );
    // A kernel of the box's own counts those alone that run; what it keeps of the others is memory of the box.
    if (ownKernel) await zombies(500);
    else assert.ok(Number(await zombies(200)) <= 64 + 24);
    assert.equal(
      await attack("ls -d /proc/[0-9]* | wc -l")
        .then(Number)
        .then((n) => n < 64 + 24),
      true,
    );
    await scene.unharmed();
  });
  await t.test(
    "a program that takes memory without end is killed, alone, and the kernel's count says so",
    async () => {
      const before = await client.oom("box-attacker");
      const hog = await attacker.exec(`node -e 'const a=[];for(;;)a.push(Buffer.alloc(1<<24,1))'`, {
        timeoutMs: 60_000,
      });
      assert.notEqual(hog.exitCode, 0);
      const after = await client.oom("box-attacker");
      assert.ok((after?.oomKills ?? 0) > (before?.oomKills ?? 0), JSON.stringify([before, after]));
      const notice = await waitFor(
        "the notice",
        async () => (await client.box("box-attacker"))?.notices.find(({ type }) => type === "oom"),
        20_000,
      );
      assert.equal(notice.evidence["memoryLimitBytes"], limits.memoryBytes);
    },
  );
  await t.test("memory disks are bounded by the memory limit", async () => {
    const text = await attack(
      "df -m --output=size /tmp /dev/shm /run /var/tmp | tail -n +2 | sort -n | tail -1",
    );
    assert.ok(Number(text) <= 192, text);
    assert.match(await attack("head -c 300M /dev/zero > /var/tmp/big; rm /var/tmp/big"), /No space left/);
  });
  await t.test("a full disk and used up files are the box's own trouble, and are noticed", async () => {
    const before = await statfs(host.dataDir);
    assert.match(await attack("head -c 1G /dev/zero > /workspace/big"), /No space left/);
    const notice = await waitFor(
      "the notice",
      async () => (await client.box("box-attacker"))?.notices.find(({ type }) => type === "disk_full"),
      20_000,
    );
    assert.ok(notice.detail.includes("larger disk"));
    await attack("rm /workspace/big");
    assert.match(
      await attack(`perl -e 'for (1..9999) { open my $f, ">", "/workspace/f$_" or die $! }'`),
      /No space left/,
    );
    await attack("find /workspace -name 'f*' -delete");
    assert.ok((before.bavail - (await statfs(host.dataDir)).bavail) * before.bsize < 512 * mib);
  });
  await t.test("open files run out for the box, not for the machine", async () => {
    assert.match(
      await attack(
        `perl -e 'my @f; for (1..2000000) { open(my $f, "<", "/dev/null") or (print "$!"), last; push @f, $f }'`,
      ),
      /Too many open files|Cannot allocate/,
    );
  });
  await t.test("more connections to a box than it may have are refused, and go when they close", async () => {
    const { url, token } = client.address;
    const port = Number(new URL(url).port);
    const head = `CONNECT box-attacker:8200 HTTP/1.1\r\nhost: box\r\nauthorization: Bearer ${token}\r\n\r\n`;
    const sockets = Array.from({ length: 1100 }, () => {
      const socket = connect(port, "127.0.0.1", () => socket.write(head));
      return socket.on("error", () => undefined);
    });
    t.after(() => sockets.forEach((socket) => socket.destroy()));
    const statuses = await Promise.all(
      sockets.map(
        (socket) =>
          new Promise<string>((done) => {
            socket.once("data", (chunk: Buffer) => done(chunk.toString().slice(9, 12)));
            socket.once("close", () => done("closed"));
          }),
      ),
    );
    assert.ok(
      statuses.filter((status) => status === "503").length >= 70,
      JSON.stringify([...new Set(statuses)]),
    );
    await scene.unharmed();
    for (const socket of sockets) socket.destroy();
    await waitFor(
      "a port of the box to be reached again",
      async () => {
        const socket = await client.dialPort("box-attacker", 8200).catch((error: unknown) => {
          if (error instanceof HostError) return null;
          throw error;
        });
        socket?.destroy();
        return socket !== null;
      },
      30_000,
    );
  });
  await t.test(
    "empty files in memory count as memory, and end their own box at most",
    { skip: ownKernel },
    async () => {
      await client.putBox("box-empty", spec({ limits: { ...limits, cpuMillis: 2000 } }));
      const script = `my $n = 0; for (1..3000000) { open(my $f, ">", "/dev/shm/f$_") or last; $n++ } print $n`;
      const said = await guestOf(t, host, "box-empty")
        .exec(`perl -e '${script}'`, { timeoutMs: 120_000 })
        .catch(() => null);
      assert.ok(Number(said?.stdout ?? 0) < 1_000_000, said?.stdout);
      await scene.unharmed();
      const peak = (await client.oom("box-empty"))?.memoryPeakBytes ?? 0;
      assert.ok(peak <= limits.memoryBytes, String(peak));
      await client.deleteBox("box-empty");
    },
  );
  await t.test("files without a name count as memory", async () => {
    const script = `my @f; for (1..64) { my $d = syscall(319, my $n = "x", 0); last if $d < 0; open(my $f, ">&=", $d); syswrite($f, "x" x (1<<24)) or last; push @f, $f } print "kept ", scalar @f`;
    const said = await attack(`perl -e '${script}'`);
    assert.ok(!said.includes("kept 64"), said);
    // The program was ended, not the agent, which had more of its memory mapped.
    assert.equal((await client.box("box-attacker"))?.state, "running");
    await scene.unharmed();
  });
  await t.test("what waits unread in sockets and pipes counts as memory or stops its writer", async () => {
    const script = `use Socket; use Fcntl; my ($n, @s) = (0); for (1..4000) { socketpair(my $a, my $b, AF_UNIX, SOCK_STREAM, 0) or last; fcntl($a, F_SETFL, O_NONBLOCK); while (my $w = syswrite($a, "x" x 65536)) { $n += $w } push @s, $a, $b } print $n`;
    const said = await attack(`perl -e '${script}'`);
    assert.ok(said === "Killed" || Number(said) < limits.memoryBytes, said);
    await scene.unharmed();
  });
  await t.test("a box cannot raise its own limits", async () => {
    const said = await attack(
      "(ulimit -n 10000000) 2>/dev/null && echo raised; renice -n -20 $$ 2>/dev/null >/dev/null && echo faster; chrt -f 99 true 2>/dev/null && echo realtime; true",
    );
    // In a kernel of its own a box may order its programs as it likes: to the machine's they stay what they were.
    if (!ownKernel) assert.equal(said, "");
    for (const { nice, policy } of await prioritiesOf(host.tag))
      assert.ok(nice >= 0 && policy === 0, `niceness ${nice}, policy ${policy}`);
  });
  await scene.unharmed();
});
