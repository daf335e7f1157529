import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { guestOf, spec } from "../testing.ts";
import { needsGroups, openScene, ownKernel, secret, skip } from "./scene.ts";

test(
  "a box learns nothing of its machine, touches none of it and none of its other boxes",
  { skip },
  async (t) => {
    const scene = await openScene(t);
    const { attack, host, outside } = scene;
    const isRoot = process.getuid?.() === 0;
    const repository = join(import.meta.dirname, "../../../..");
    const telling = [host.dataDir, host.tag, repository, "guest-image", "/.toolchain", "box-neighbour"];

    await t.test(
      "mounts do not tell where on the machine they come from",
      { skip: ownKernel || needsGroups },
      async () => {
        const text = await attack("cat /proc/self/mountinfo /proc/mounts /proc/1/mountstats");
        for (const word of telling) assert.ok(!text.includes(word), word);
        if (isRoot) assert.ok((await outside("cat /proc/self/mountinfo")).includes(host.dataDir));
      },
    );
    await t.test("open files of the first process do not tell a path of the machine", async () => {
      const text = await attack("ls -l /proc/1/fd /proc/2/fd /proc/1/cwd /proc/1/root /proc/1/exe 2>&1");
      for (const word of telling) assert.ok(!text.includes(word), word);
    });
    await t.test("arguments and environments of processes tell nothing of the host", async () => {
      const text = await attack(
        "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ /proc/[0-9]*/maps | tr '\\0' ' '",
      );
      for (const word of [...telling, "HOST_", "DAEMON"]) assert.ok(!text.includes(word), word);
      const daemon = await outside(`cat /proc/${host.pid}/cmdline /proc/${host.pid}/environ | tr '\\0' ' '`);
      for (const word of [host.dataDir, repository, "HOST_"]) assert.ok(daemon.includes(word), word);
    });
    await t.test(
      "the machine's boot arguments, disks, locks and keys are not to be read",
      { skip: ownKernel },
      async () => {
        const masked = "cmdline diskstats partitions swaps locks keys kallsyms";
        const look = `cd /proc && cat ${masked} 2>/dev/null; ls fs/ext4 fs/jbd2 2>/dev/null | grep loop; true`;
        assert.equal(await attack(look), "");
        assert.notEqual(await outside(look), "");
      },
    );
    await t.test("the box's control groups are shown as the root of all", async () => {
      const text = await attack(
        "cut -d: -f3 /proc/self/cgroup | sort -u; ls /sys/fs/cgroup 2>/dev/null | grep boxes",
      );
      assert.ok(!text.includes("boxes"), text);
    });
    await t.test("sysrq, core patterns and other switches of the kernel cannot be written", async () => {
      const files =
        "sysrq-trigger sys/kernel/core_pattern sys/kernel/modprobe sys/kernel/hotplug sys/vm/drop_caches sys/kernel/sysrq sys/fs/binfmt_misc/register sys/kernel/hostname";
      const before = await readFile("/proc/sys/kernel/core_pattern", "utf8");
      assert.equal(
        await attack(
          `cd /proc && for f in ${files}; do (echo b > $f) 2>/dev/null && echo wrote $f; done; true`,
        ),
        "",
      );
      assert.equal(await readFile("/proc/sys/kernel/core_pattern", "utf8"), before);
    });
    await t.test("memory of the kernel and of other processes is closed", async () => {
      assert.equal(
        await attack(
          "for f in /dev/mem /dev/kmem /dev/port /proc/kcore; do head -c 1 $f 2>/dev/null | wc -c; done | sort -u",
        ),
        "0",
      );
    });
    await t.test("the machine's root is not behind any process's root link", async () => {
      const look = `ls -d /proc/[0-9]*/root${host.dataDir} /proc/[0-9]*/cwd/../../../..${host.dataDir} 2>/dev/null; true`;
      assert.equal(await attack(look), "");
      assert.ok((await outside(look)).includes(host.dataDir));
    });
    await t.test("no switch of the kernel is open to the box's user", { skip: ownKernel }, async () => {
      // Those that are left out are of the box's own namespaces.
      const kernel = "msg sem shm auto_msgmni ns_last_pid pid_max"
        .split(" ")
        .map((name) => `sys/kernel/${name}`);
      const own = ["sys/fs/mqueue", "sys/net", "sys/user", ...kernel];
      const others = own.map((path) => `-not -path '/proc/${path}*'`);
      const look = `find /proc/sys /proc/irq /proc/fs /sys -type f -writable ${others.join(" ")} 2>/dev/null | head -5`;
      assert.equal(await attack(look), "");
      if (isRoot) assert.notEqual(await outside(look), "");
    });
    await t.test("every device is one that programs need", { skip: ownKernel }, async () => {
      const known = "console core fd full null ptmx pts random shm stderr stdin stdout tty urandom zero";
      const names = await attack("ls /dev");
      for (const name of names.split("\n")) assert.ok(known.split(" ").includes(name), name);
      assert.equal(await attack("find /dev -type b"), "");
    });
    await t.test("no open file of a process leads to a folder outside", async () => {
      const up = "../".repeat(12);
      const look = `for d in /proc/[0-9]*/fd/*; do (cd $d/${up} 2>/dev/null && stat -c %d:%i .); done; stat -c %d:%i /`;
      assert.equal(new Set((await attack(look)).split("\n")).size, 1);
    });
    await t.test("a command's folder cannot be one that a program left open", async () => {
      for (let number = 0; number < 24; number++) {
        const seen = await scene.attacker
          .exec(`ls -d ../../../../../../..${host.dataDir}; cat ../../../../../../etc/shadow`, {
            cwd: `/proc/self/fd/${number}`,
          })
          .catch(() => null);
        assert.equal(seen?.stdout ?? "", "", `descriptor ${number}`);
      }
    });
    await t.test("the program that runs the agent cannot be written to through a process of it", async () => {
      const write = `for f in /proc/[0-9]*/exe; do perl -e 'open(my $f, "+<", shift) and print "opened"' $f; done`;
      assert.equal(await attack(write), "");
    });
    await t.test("a command cannot be started as root", async () => {
      for (const user of ["root", "0"]) {
        const answer = await fetch(
          `${host.client.address.url}/boxes/box-attacker/guest/files?path=/root/owned&username=${user}`,
          {
            method: "POST",
            headers: {
              authorization: `Bearer ${host.client.address.token}`,
              "content-type": "application/octet-stream",
            },
            body: "owned",
          },
        );
        await answer.body?.cancel();
        assert.ok(answer.status >= 400 || (await attack("id -u; ls -n /root")).startsWith("1000"), user);
      }
      assert.equal(await attack("ls -A / /root 2>/dev/null | grep owned; true"), "");
    });
    await t.test("variables that steer programs steer none of the host's", async () => {
      const evil = `require("fs").appendFileSync("/workspace/ran", process.getuid() + "\\n")`;
      const env = {
        ...{ NODE_OPTIONS: "--require /workspace/evil.cjs", LD_PRELOAD: "/workspace/evil.so" },
        ...{ BASH_ENV: "/workspace/evil.sh", ENV: "/workspace/evil.sh", PERL5OPT: "-M/workspace/evil" },
      };
      await host.client.putBox("box-steered", spec({ env }));
      const steered = guestOf(t, host, "box-steered");
      await steered.writeFile("/workspace/evil.cjs", evil);
      await steered.writeFile("/workspace/evil.sh", "id -u >> /workspace/ran");
      await steered.exec("node -e 0; true");
      await host.client.stats("box-steered");
      await host.client.freeze("box-steered", { path: "/workspace" });
      const { stdout } = await steered.exec("sort -u /workspace/ran");
      assert.equal(stdout, "1000\n");
      await host.client.deleteBox("box-steered");
      await scene.unharmed();
    });
    await t.test("the box's own places cannot be moved aside for links", async () => {
      // Not by mv, which would copy /proc without end where no disk is limited.
      const move = `for f in workspace home home/user tmp run/agent etc proc dev; do
        perl -e 'exit !rename($ARGV[0], $ARGV[1])' /$f /workspace/taken && echo moved $f
        rmdir /$f 2>/dev/null && echo removed $f; done; true`;
      assert.equal(await attack(move), "");
    });
    await t.test(
      "a process cannot hide from the kernel's choice of what to end",
      { skip: ownKernel },
      async () => {
        assert.equal(
          await attack("(echo -1000 > /proc/self/oom_score_adj) 2>/dev/null && echo hidden; true"),
          "",
        );
      },
    );
    await t.test("no disk, loop device or control device of the machine is there", async () => {
      // A kernel of its own may offer its own file systems of programs.
      const devices = `loop|vd|sd|nvme|dm-|kvm|vsock|mem|kmsg|mapper${ownKernel ? "" : "|fuse"}`;
      assert.equal(await attack(`ls /dev | grep -E '^(${devices})'; true`), "");
    });
    await t.test("signals reach no process outside", async () => {
      const { pid } = host;
      const numbers = Array.from({ length: 40 }, (_, at) => pid - 20 + at).join(" ");
      assert.equal(await outside(`kill -0 ${pid} && echo hit`), "hit");
      assert.equal(
        await attack(`for p in ${numbers}; do kill -9 $p 2>/dev/null && echo hit $p; done; true`),
        "",
      );
      await scene.unharmed();
    });
    await t.test("killing everything in sight ends no other box", async () => {
      await scene.attacker
        .exec("kill -STOP 1; kill -9 1; setsid sh -c 'kill -KILL -1'", { timeoutMs: 5_000 })
        .catch(() => undefined);
      assert.equal((await scene.neighbour.exec("cat secret")).stdout, secret);
      await host.client.deleteBox("box-attacker");
      await host.client.putBox("box-attacker", spec({ egress: { mode: "allow-all" } }));
    });
    await t.test("files and environment of another box are out of reach by every name", async () => {
      const found = await attack(
        `cat ${host.dataDir}/boxes/box-neighbour/disk/workspace/secret ../../box-neighbour/disk/workspace/secret 2>/dev/null; grep -rs ${secret} /proc/[0-9]*/environ; true`,
      );
      assert.ok(!found.includes(secret), found);
    });
    await t.test("abstract sockets of the machine are not there", { skip: ownKernel }, async () => {
      const name = `\0abuse-${host.tag}`;
      const server = createServer((socket) => socket.end("reached"));
      await new Promise<void>((done) => server.listen(name, done));
      t.after(() => server.close());
      const script = `require("net").connect("\\0abuse-${host.tag}").on("data",d=>console.log(String(d))).on("error",e=>console.log(e.code))`;
      assert.match(await attack(`node -e '${script}'`), /ECONNREFUSED|EINVAL|ENOENT/);
      assert.equal(await attack("cat /proc/net/unix | grep -c -i -e docker -e systemd -e dbus; true"), "0");
      assert.ok((await outside("cat /proc/net/unix")).includes(`@abuse-${host.tag}`));
    });
    await t.test("System V and POSIX memory of the machine is another one", async () => {
      assert.equal(await attack("ipcs -m 2>/dev/null | grep -c 0x; ls /dev/shm | wc -l"), "0\n0");
    });
    await t.test("control groups cannot be mounted or given a release agent", async () => {
      assert.equal(
        await attack(
          "find /sys/fs/cgroup -name release_agent -writable 2>/dev/null; mkdir -p /tmp/c; mount -t cgroup -o memory c /tmp/c 2>/dev/null && echo mounted; true",
        ),
        "",
      );
    });
    await t.test(
      "the system and the agent cannot be changed, nor what the next program starts with",
      async () => {
        const targets =
          "/usr/bin/x /usr/local/bin/node /opt/agent/agent.mjs /etc/ld.so.preload /etc/passwd /lib/x /x";
        assert.equal(
          await attack(`for f in ${targets}; do (echo x >> $f) 2>/dev/null && echo wrote $f; done; true`),
          "",
        );
      },
    );
    await t.test("hard links to files that are not the box's own cannot be made", async () => {
      assert.equal(
        await attack(
          "for f in /etc/passwd /usr/bin/id /run/agent/ca.pem /opt/agent/agent.mjs; do ln $f /workspace/link 2>/dev/null && echo linked $f; done; true",
        ),
        "",
      );
    });
    await t.test("a setuid program on the box's disk runs as the box's own user", async () => {
      const flags = await attack(
        "grep -E ' /(workspace|home/user|tmp|var/tmp|dev/shm) ' /proc/mounts | grep -v nosuid; true",
      );
      if (!ownKernel) assert.equal(flags, "");
      assert.equal(
        await attack("cp /usr/bin/id /workspace/i && chmod 4755 /workspace/i && /workspace/i -u"),
        "1000",
      );
    });
    await t.test("nothing of the host's secrets is in the box's own settings", async () => {
      const text = await attack("cat /run/agent/* 2>/dev/null; ls -la /run/agent; env");
      for (const word of ["a-token-that-only-tests-use", "HOST_TOKEN", secret])
        assert.ok(!text.includes(word), word);
    });
    await t.test("a brand or product name is nowhere in the box", async () => {
      const text = await attack(
        "env; hostname; cat /proc/version /etc/hostname /etc/hosts /etc/passwd; ls / /opt /run /var /var/log",
      );
      assert.doesNotMatch(text, /miosa|platform|e2b|firecracker|gvisor/i);
    });
    await scene.unharmed();
  },
);
