import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { waitFor } from "@platform/daemon";
import { HostError } from "@platform/host-api";
import { groupsOf, guestOf, spec } from "../testing.ts";
import { mib, needsGroups, openScene, secret, skip } from "./scene.ts";

const isRefused = (error: unknown) => error instanceof HostError && error.code !== "INTERNAL";

test(
  "no trick with names, links and special files leads out of a box or holds up its host",
  { skip },
  async (t) => {
    const scene = await openScene(t);
    const { attack, attacker, host } = scene;
    const { client } = host;
    const read = async (path: string) => (await (await attacker.readFile(path)).toArray()).join("");
    const neighbours = join(host.dataDir, "boxes/box-neighbour/disk/workspace/secret");

    await t.test("a file call with the machine's own path finds the box's files only", async () => {
      await assert.rejects(read(neighbours));
      await assert.rejects(read(`../../../../../../../..${neighbours}`));
      await assert.rejects(read(`/proc/1/root${neighbours}`));
      await assert.rejects(read("/etc/shadow"));
    });
    await t.test("a link to the machine's path leads to the box's own root", async () => {
      await attack(
        `ln -sfn ${neighbours} /workspace/link; ln -sfn / /workspace/root; ln -sfn /proc/self/root /workspace/proc`,
      );
      for (const path of ["link", `root${neighbours}`, `proc${neighbours}`])
        await assert.rejects(read(`/workspace/${path}`));
      await attacker.writeFile("/workspace/root/tmp/written", "in the box");
      assert.equal(await attack("cat /tmp/written"), "in the box");
    });
    await t.test("an upload through a link cannot replace the system or the agent", async () => {
      await attack("ln -sfn /opt/agent/agent.mjs /workspace/agent; ln -sfn /etc/passwd /workspace/passwd");
      await assert.rejects(attacker.writeFile("/workspace/agent", "owned"));
      await assert.rejects(attacker.writeFile("/workspace/passwd", "owned"));
      await assert.rejects(attacker.writeFile("/usr/local/bin/node", "owned"));
    });
    await t.test("the path of a freeze, a bundle or a listing cannot leave the box's folders", async () => {
      for (const path of [
        "/",
        "/etc",
        "/workspace/..",
        "/workspace/../../..",
        "../..",
        neighbours,
        "/home/user/../../etc",
        "/run/agent",
        "/workspace\0/etc",
      ]) {
        await assert.rejects(client.freeze("box-attacker", { path }), isRefused, `freeze ${path}`);
      }
    });
    await t.test("links in the path of a freeze are refused, and links in the tree stay links", async () => {
      await attack(
        "mkdir -p /workspace/tree && cd /workspace/tree && ln -sfn / all && ln -sfn /etc/passwd passwd; ln -sfn / /workspace/out",
      );
      await assert.rejects(client.freeze("box-attacker", { path: "/workspace/out/etc" }), isRefused);
      await assert.rejects(client.freeze("box-attacker", { path: "/workspace/out" }), isRefused);
      const frozen = await client
        .freeze("box-attacker", { path: "/workspace/tree" })
        .catch((error: unknown) => error);
      if (frozen instanceof Error) assert.ok(isRefused(frozen), String(frozen));
      else assert.ok((frozen as { sizeBytes: number }).sizeBytes < mib);
    });
    await t.test(
      "pipes, sockets and devices in a frozen tree neither block the host nor get in",
      async () => {
        await attack(
          `mkdir -p /workspace/odd && cd /workspace/odd && mkfifo pipe; perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Local=>"sock",Listen=>1)'; echo ok > plain`,
        );
        const frozen = await client
          .freeze("box-attacker", { path: "/workspace/odd" })
          .catch((error: unknown) => error);
        if (frozen instanceof Error) assert.ok(isRefused(frozen), String(frozen));
        await client.putSnapshot("snapshot-odd", "box-attacker");
        await client.deleteSnapshot("snapshot-odd");
      },
    );
    await t.test("downloading a pipe, a socket or a device is refused at once", async () => {
      for (const path of ["/workspace/odd/pipe", "/workspace/odd/sock", "/dev/zero", "/dev/tty"])
        await assert.rejects(read(path), path);
    });
    await t.test("the name of a part of an upload leads nowhere else", async () => {
      const form = new FormData();
      form.append("file", new Blob(["owned"]), "../../../../../../../opt/agent/agent.mjs");
      form.append("file", new Blob(["owned"]), "/etc/passwd");
      const answer = await fetch(`${client.address.url}/boxes/box-attacker/guest/files`, {
        method: "POST",
        headers: { authorization: `Bearer ${client.address.token}` },
        body: form,
      });
      await answer.body?.cancel();
      assert.ok(answer.status >= 400, String(answer.status));
      assert.equal(await attack("grep -l owned /opt/agent/agent.mjs /etc/passwd; true"), "");
    });
    await t.test("keys of boxes, snapshots and doors cannot be paths", async () => {
      const { url, token } = client.address;
      for (const path of [
        "boxes/..%2f..%2fetc",
        "snapshots/..%2fx",
        "boxes/%2e%2e",
        "boxes/a%00b",
        "boxes/.",
      ]) {
        const answer = await fetch(`${url}/${path}`, {
          method: "PUT",
          headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
          body: JSON.stringify(path.startsWith("snap") ? { boxKey: "box-attacker" } : spec()),
        });
        assert.ok(answer.status >= 400 && answer.status < 500, `${path}: ${answer.status}`);
        await answer.body?.cancel();
      }
    });
    await t.test("a digest cannot be a path", async () => {
      for (const digest of ["sha256:../../../../etc/passwd", "../../x", `sha256:${"0".repeat(63)}/`]) {
        const content = { type: "source" as const, digest };
        await assert.rejects(client.putBox("box-digest", spec({ content })), isRefused, digest);
      }
      assert.equal(await client.box("box-digest"), null);
    });
    await t.test("a loop of links ends, in every file call", async () => {
      await attack(
        "mkdir -p /workspace/loop && cd /workspace/loop && ln -sfn b a; ln -sfn a b; ln -sfn . self",
      );
      await assert.rejects(read("/workspace/loop/a"));
      await assert.rejects(attacker.writeFile("/workspace/loop/a/x", "x"));
      const { entries } = await attacker.filesystem.listDir({ path: "/workspace/loop", depth: 50 });
      assert.ok(entries.length <= 3, String(entries.length));
      await client.freeze("box-attacker", { path: "/workspace/loop" }).catch((error: unknown) => {
        assert.ok(isRefused(error), String(error));
      });
    });
    await t.test("a file of holes costs its snapshot and its freeze no more than its blocks", async () => {
      await attack("truncate -s 4T /workspace/holes");
      const frozen = await client
        .freeze("box-attacker", { path: "/workspace" })
        .catch((error: unknown) => error as Error);
      await client.putSnapshot("snapshot-holes", "box-attacker");
      await client.deleteSnapshot("snapshot-holes");
      await attack("rm -f /workspace/holes");
      if (frozen instanceof Error) assert.ok(isRefused(frozen), String(frozen));
    });
    await t.test("joining files refuses pipes, devices and folders", async () => {
      const { url, token } = client.address;
      for (const source of ["/workspace/odd/pipe", "/dev/zero", "/etc", neighbours]) {
        const answer = await fetch(`${url}/boxes/box-attacker/guest/files/compose`, {
          method: "POST",
          headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
          body: JSON.stringify({ source_paths: [source], destination: "/workspace/joined" }),
        });
        assert.ok(answer.status >= 400 && answer.status < 500, `${source}: ${answer.status}`);
        await answer.body?.cancel();
      }
    });
    await t.test("a link that is swapped while the host copies is never followed", async () => {
      await attack("mkdir -p /workspace/race/d && echo mine > /workspace/race/d/file");
      const swapper = `node -e 'const fs=require("fs");const end=Date.now()+4000;process.chdir("/workspace/race");while(Date.now()<end){try{fs.renameSync("d","e");fs.symlinkSync("/etc","d");fs.unlinkSync("d");fs.renameSync("e","d")}catch{}}'`;
      const swapping = attack(swapper);
      for (let tries = 0; tries < 5; tries++) {
        const frozen = await client
          .freeze("box-attacker", { path: "/workspace/race/d" })
          .catch((error: unknown) => error);
        if (frozen instanceof Error) assert.ok(isRefused(frozen), String(frozen));
        else assert.ok((frozen as { files: number }).files <= 1, JSON.stringify(frozen));
      }
      await swapping;
    });
    await t.test(
      "an archive that unpacks to more than the disk is refused, and nothing of it stays",
      { skip: needsGroups },
      async () => {
        await attack("mkdir -p /workspace/bomb && truncate -s 300M /workspace/bomb/zeros");
        const frozen = await client
          .freeze("box-attacker", { path: "/workspace/bomb" })
          .catch((error: unknown) => error as Error);
        await attack("rm -rf /workspace/bomb");
        if (frozen instanceof Error) return assert.ok(isRefused(frozen), String(frozen));
        const limits = { memoryBytes: 512 * mib, cpuMillis: 1000, maxProcesses: 128, diskBytes: 32 * mib };
        await assert.rejects(
          client.putBox("box-bombed", spec({ limits, content: { type: "source", digest: frozen.digest } })),
          (error: unknown) => error instanceof HostError && error.code === "DISK_FULL",
        );
        assert.equal(await client.box("box-bombed"), null);
      },
    );
    await t.test(
      "a compressed upload that grows without end stops at the box's disk",
      { skip: needsGroups },
      async () => {
        const { gzipSync } = await import("node:zlib");
        const { url, token } = client.address;
        const answer = await fetch(`${url}/boxes/box-attacker/guest/files?path=/workspace/grown`, {
          method: "POST",
          headers: {
            authorization: `Bearer ${token}`,
            "content-type": "application/octet-stream",
            "content-encoding": "gzip",
          },
          body: gzipSync(Buffer.alloc(700 * mib)),
        });
        await answer.body?.cancel();
        assert.equal(answer.status, 507);
        assert.equal(await attack("ls /workspace/grown 2>/dev/null; ls -a /workspace | grep -c upload"), "0");
      },
    );
    await t.test(
      "a name with control characters, of any length, or of bad bytes harms no listing",
      async () => {
        await attack(
          `cd /workspace && mkdir -p names && cd names && touch "$(printf 'a\\nb')" "$(printf '\\033[2J')" -- '-rf' "$(printf '\\377\\376')" "$(printf 'x%.0s' $(seq 255))"`,
        );
        const { entries } = await attacker.filesystem.listDir({ path: "/workspace/names", depth: 1 });
        // A name of bad bytes is not text and may be left out.
        assert.ok(entries.length >= 4);
        await client.putSnapshot("snapshot-names", "box-attacker");
        await client.deleteSnapshot("snapshot-names");
      },
    );
    await t.test("a watch on links and deep trees stays in the box and can be ended", async () => {
      await attack("mkdir -p /workspace/watched && ln -sfn / /workspace/watched/root");
      const stop = new AbortController();
      const watching = (async () => {
        for await (const { event } of attacker.filesystem.watchDir(
          { path: "/workspace/watched", recursive: true },
          { signal: stop.signal },
        ))
          if (event.case === "start") stop.abort();
      })();
      await watching.catch(() => undefined);
      await scene.unharmed();
    });
    await t.test("files that the box left are gone with it, whatever modes they had", async () => {
      await client.putBox("box-modes", spec());
      await guestOf(t, host, "box-modes").exec(
        "mkdir -p /workspace/a/b && touch /workspace/a/b/c && chmod 0 /workspace/a/b /workspace/a",
      );
      await client.deleteBox("box-modes");
      await assert.rejects(readFile(join(host.dataDir, "boxes/box-modes/state.json")), { code: "ENOENT" });
    });
    await t.test("processes that outlive their parent do not outlive their box", async () => {
      await client.putBox("box-undead", spec());
      const mark = `undead-${createHash("sha256").update(host.tag).digest("hex").slice(0, 12)}`;
      const script = `trap "" TERM HUP INT; while :; do (setsid sh -c "trap '' TERM; exec sleep 1000.$$ ${mark}" &) ; sleep 1; done`;
      await guestOf(t, host, "box-undead").exec(
        `setsid sh -c '${script.replaceAll("'", "'\\''")}' > /dev/null 2>&1 & sleep 1`,
      );
      await client.deleteBox("box-undead");
      await waitFor(
        "its groups to be gone",
        async () => (await groupsOf(host.tag)).every((folder) => !folder.endsWith("box-undead")),
        10_000,
      );
    });
    assert.equal((await scene.neighbour.exec("cat secret")).stdout, secret);
    await scene.unharmed();
  },
);
