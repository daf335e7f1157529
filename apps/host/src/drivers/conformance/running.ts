import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { buffer } from "node:stream/consumers";
import { waitFor } from "@platform/daemon";
import { EventType } from "@platform/guest-protocol";
import { service } from "../../testing.ts";
import { type Capability } from "./capability.ts";

const boots: Capability = {
  name: "a box boots and says truly how it is isolated",
  async prove(t, scene) {
    const key = await scene.standing("plain");
    const box = await scene.host.client.box(key);
    assert.equal(box?.state, "running");
    assert.equal(box.isolation?.driver, scene.report.driver);
    assert.equal(box.isolation.level, scene.report.level);
    const release = await scene.run(t, key, "uname -r");
    assert.ok(box.isolation.kernel.includes(`Linux ${release}`), `${box.isolation.kernel}, seen ${release}`);
  },
};

const identity: Capability = {
  name: "a box has the name and user that it was given",
  async prove(t, scene) {
    const key = await scene.standing("plain");
    const seen = await scene.run(t, key, "hostname; id -u; id -un; echo $HOME; pwd; touch ~/made; ls ~");
    assert.equal(seen, "studio\n1000\nuser\n/home/user\n/workspace\nmade");
    assert.equal(await scene.run(t, key, "grep CapEff /proc/self/status | tr -dc 1-9"), "");
  },
};

const commands: Capability = {
  name: "a command gets input and gives its exit code and large output",
  async prove(t, scene) {
    const guest = scene.guest(t, await scene.standing("plain"));
    const failed = await guest.exec("cat; echo bad >&2; exit 7", { stdin: "given" });
    assert.deepEqual([failed.stdout, failed.stderr, failed.exitCode], ["given", "bad\n", 7]);
    const large = await guest.exec("head -c 8000000 /dev/zero | tr '\\0' a; printf Z");
    assert.equal(large.stdout.length, 8_000_001);
    assert.ok(large.stdout.endsWith("aZ"));
    const killed = await guest.exec("sleep 100", { timeoutMs: 200 });
    assert.equal(killed.timedOut, true);
  },
};

const terminal: Capability = {
  name: "a terminal echoes, knows its size and is resized",
  async prove(t, scene) {
    const { process } = scene.guest(t, await scene.standing("plain"));
    const script = "stty size; read line; stty size; echo got=$line";
    const size = { cols: 80, rows: 24 };
    const started = process.start({ process: { cmd: "/bin/sh", args: ["-c", script] }, pty: { size } });
    let text = "";
    let pid = 0;
    for await (const { event } of started) {
      if (event?.event.case === "start") ({ pid } = event.event.value);
      if (event?.event.case !== "data") continue;
      const isFirst = !text.includes("24 80");
      text += Buffer.from(event.event.value.output.value ?? []).toString();
      if (!isFirst || !text.includes("24 80")) continue;
      const selector = { selector: { case: "pid" as const, value: pid } };
      await process.update({ process: selector, pty: { size: { cols: 132, rows: 50 } } });
      const input = { input: { case: "pty" as const, value: Buffer.from("word\n") } };
      await process.sendInput({ process: selector, input });
    }
    assert.match(text, /word\r\n50 132\r\ngot=word/);
  },
};

const files: Capability = {
  name: "files are written, read back and watched",
  async prove(t, scene) {
    const guest = scene.guest(t, await scene.standing("plain"));
    const content = randomBytes(3_000_000);
    const { watcherId } = await guest.filesystem.createWatcher({ path: "/workspace", recursive: true });
    await guest.writeFile("/workspace/deep/file", content);
    assert.ok((await buffer(await guest.readFile("/workspace/deep/file"))).equals(content));
    const seen = new Set<string>();
    const told = async (wanted: string) =>
      waitFor(
        wanted,
        async () => {
          const { events } = await guest.filesystem.getWatcherEvents({ watcherId });
          for (const event of events) seen.add(`${EventType[event.type]} ${event.name}`);
          return seen.has(wanted);
        },
        scene.patience(10_000),
      );
    await guest.exec("mv /workspace/deep/file /workspace/moved");
    await told("CREATE moved");
    await guest.exec("rm /workspace/moved");
    await told("REMOVE moved");
    await guest.filesystem.removeWatcher({ watcherId });
  },
};

const environment: Capability = {
  name: "a changed environment reaches what starts later",
  async prove(t, scene) {
    const key = await scene.standing("plain");
    assert.equal(await scene.run(t, key, "echo $COLOUR"), "green");
    await scene.host.client.patchBox(key, { env: { COLOUR: "blue" } });
    assert.equal(await scene.run(t, key, "echo $COLOUR"), "blue");
  },
};

const supervision: Capability = {
  name: "a service that ends is started again, and its lines are kept",
  async prove(t, scene) {
    const { services } = scene.guest(t, await scene.standing("plain"));
    await services.put(service("mortal", "echo alive; exit 3", "always"));
    const record = await waitFor(
      "two more starts",
      async () => {
        const found = await services.get("mortal");
        return found.restarts >= 2 ? found : undefined;
      },
      scene.patience(20_000),
    );
    assert.equal(record.exitCode, 3);
    assert.ok((await services.logs("mortal")).filter(({ line }) => line === "alive").length >= 2);
    await services.remove("mortal");
  },
};

export const running = [boots, identity, commands, terminal, files, environment, supervision];
