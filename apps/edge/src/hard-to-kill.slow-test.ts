import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { after, before, describe, test } from "node:test";
import { waitFor } from "@platform/daemon";
import { connectionsWithin } from "./connections.ts";
import { findProgram } from "./haproxy/index.ts";
import { gather, startCrowdHost } from "./testing/crowd.ts";
import { Rig, type App } from "./testing/rig.ts";

/** Fewer where a process may not have the descriptors for them; the run tells how many there were. */
const wantedWebSockets = Number(process.env["ABUSE_SOCKETS"] ?? 10_000);
/** One app alone is not given all of them. */
const crowds = 4;
const patienceMs = 180_000;
/** Most that the edge may grow by while it is abused: buffers of its connections, not what was sent. */
const maxGrowthMib = 400;
/** The same for one idle WebSocket and its connection to the app. */
const maxWebSocketKib = 64;
const head = "GET / HTTP/1.1\r\nHost: victim.clinic.test\r\n";

const planes = ["node", "haproxy"] as const;
for (const plane of planes) {
  const skip = plane === "haproxy" && !findProgram("haproxy") ? "haproxy is not installed" : false;
  describe(`the data plane ${plane}`, { skip }, () => abuse(plane));
}

function abuse(plane: (typeof planes)[number]): void {
  let rig: Rig;
  let victim: App;
  let neighbour: App;
  const open = new Set<Socket>();
  before(async () => {
    rig = await Rig.start({ EDGE_DATA_PLANE: plane, LOG_LEVEL: "warn" });
    victim = await rig.app((req, res) => {
      if (req.url === "/endless") {
        const more = () => {
          while (res.write(Buffer.alloc(64 * 1024)));
        };
        res.on("drain", more);
        more();
      } else if (req.url === "/reset") req.socket.resetAndDestroy();
      else if (req.url === "/half") {
        res.write("first half");
        setTimeout(() => req.socket.resetAndDestroy(), 5);
      } else res.end("victim");
    });
    neighbour = await rig.app((_req, res) => res.end("neighbour"));
    await rig.publish({ "victim.clinic.test": victim.target, "neighbour.clinic.test": neighbour.target });
    await fronted("victim.clinic.test", "neighbour.clinic.test");
  });
  after(() => {
    for (const socket of open) socket.destroy();
    return rig.stop();
  });

  const health = async () =>
    JSON.parse((await rig.fetch("edge.internal", "/healthz")).body) as { tunnels: number; fronted: number };

  /** Resolves once HAProxy answers for these, if there is one. */
  async function fronted(...names: string[]): Promise<void> {
    if (plane === "node") return;
    const { fronted: already } = await health();
    for (const name of names) assert.equal((await rig.fetch(name)).status, 200);
    await waitFor(
      "HAProxy to know them",
      async () => (await health()).fronted >= already + names.length,
      30_000,
    );
  }

  /** Of the edge and, if there is one, its HAProxy. */
  function rssMib(): number {
    const { pid } = rig.edge.child;
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim();
    return [String(pid), ...children.split(" ").filter(Boolean)]
      .map((one) => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${one}/status`, "utf8"))![1]) / 1024)
      .reduce((sum, mib) => sum + mib);
  }

  /** Connections that send these bytes; what comes back is kept up to a few bytes. */
  async function attack(
    count: number,
    bytes: string,
    reads = true,
  ): Promise<{ socket: Socket; text: string }[]> {
    const all: { socket: Socket; text: string }[] = [];
    for (let i = 0; i < count; i += 100)
      await Promise.all(
        Array.from(
          { length: Math.min(100, count - i) },
          () =>
            new Promise<void>((resolve, reject) => {
              const socket = connect({ port: rig.edge.port, host: "127.0.0.1", allowHalfOpen: true });
              const one = { socket, text: "" };
              all.push(one);
              open.add(socket);
              socket.once("close", () => open.delete(socket));
              socket.once("error", reject);
              socket.once("connect", () => {
                socket.off("error", reject).on("error", () => socket.destroy());
                if (reads)
                  socket.on(
                    "data",
                    (part) => (one.text = (one.text + part.toString("latin1")).slice(0, 200)),
                  );
                else socket.pause();
                socket.write(bytes, () => resolve());
              });
            }),
        ),
      );
    return all;
  }

  async function neighbourIsWell(times = 20): Promise<void> {
    for (let i = 0; i < times; i++) {
      const answer = await rig.fetch("neighbour.clinic.test");
      assert.equal(answer.status, 200);
      assert.equal(answer.body, "neighbour");
    }
  }

  function leave(all: { socket: Socket }[]): void {
    for (const { socket } of all) socket.destroy();
  }

  async function bounded(work: () => Promise<void>): Promise<void> {
    const beforeMib = rssMib();
    await work();
    assert.ok(rssMib() - beforeMib < maxGrowthMib, `grew from ${beforeMib} to ${rssMib()} MiB`);
  }

  test(
    "clients that send their headers byte by byte are cut off in time, and hinder nobody",
    { timeout: patienceMs },
    () =>
      bounded(async () => {
        const slow = await attack(500, "GET / HTTP/1.1\r\nHo");
        const timer = setInterval(() => {
          for (const { socket } of slow) if (socket.writable) socket.write("x");
        }, 1_000);
        try {
          await neighbourIsWell();
          await waitFor(
            "the end of all",
            () => slow.every(({ socket }) => socket.readableEnded || socket.destroyed),
            patienceMs,
          );
          await neighbourIsWell();
        } finally {
          clearInterval(timer);
          leave(slow);
        }
      }),
  );

  test(
    "idle WebSockets cost little each, every one still answers, and one app cannot have them all",
    { timeout: 600_000 },
    async (t) => {
      const most = await connectionsWithin();
      const count = Math.min(wantedWebSockets, most - 300);
      const each = Math.floor(count / crowds);
      const names = Array.from({ length: crowds }, (_, i) => `crowd${i}.clinic.test`);
      const hosts = await Promise.all(names.map(startCrowdHost));
      await rig.publish(Object.fromEntries(names.map((name, i) => [name, hosts[i]!.target])));
      await fronted(...names);
      const beforeMib = rssMib();
      const joined = await Promise.all(names.map((name) => gather(rig.edge.port, name, each)));
      try {
        for (const { open: opened, refused } of joined) assert.equal(opened, each, JSON.stringify(refused));
        await neighbourIsWell();
        const kib = ((rssMib() - beforeMib) * 1024) / (each * crowds);
        t.diagnostic(
          `${plane}: ${each * crowds} idle WebSockets, ${kib.toFixed(1)} KiB each; the limit of descriptors allows ${most}`,
        );
        assert.ok(kib < maxWebSocketKib, `${kib} KiB each`);
        const heard = await Promise.all(joined.map((crowd) => crowd.echo("still there")));
        assert.deepEqual(
          heard,
          names.map(() => each),
        );
        await neighbourIsWell();
      } finally {
        for (const crowd of joined) await crowd.stop();
        for (const host of hosts) await host.stop();
      }
    },
  );

  test("10 MB of headers are refused, however many send them at once", { timeout: patienceMs }, () =>
    bounded(async () => {
      const line = `X-Long: ${"x".repeat(8_000)}\r\n`;
      const large = await attack(20, head + line.repeat(10 * 128)).catch((error: NodeJS.ErrnoException) => {
        // Refused while it still sent.
        assert.ok(error.code === "EPIPE" || error.code === "ECONNRESET", String(error));
        return [];
      });
      await neighbourIsWell();
      await waitFor(
        "the end of all",
        () => large.every(({ socket }) => socket.destroyed || socket.readableEnded),
        patienceMs,
      );
      for (const { text } of large) assert.ok(text === "" || /^HTTP\/1\.1 4(00|31) /.test(text), text);
      leave(large);
    }),
  );

  test(
    "clients that read nothing of an endless answer stop its app, not the edge",
    { timeout: patienceMs },
    () =>
      bounded(async () => {
        const deaf = await attack(50, `${head.replace("GET /", "GET /endless")}\r\n`, false);
        try {
          await neighbourIsWell(50);
        } finally {
          leave(deaf);
        }
      }),
  );

  test(
    "clients that close their half get their answer, those that never asked are let go",
    { timeout: patienceMs },
    () =>
      bounded(async () => {
        const asked = await attack(200, `${head}\r\n`);
        for (const { socket } of asked) socket.end();
        const silent = await attack(200, "\r\n");
        for (const { socket } of silent) socket.end();
        try {
          // Node counts a half-closed client as gone as soon as nothing is being answered.
          await waitFor(
            "the end of all",
            () => [...asked, ...silent].every(({ socket }) => socket.destroyed || socket.readableEnded),
            patienceMs,
          );
          // HAProxy tells one that it takes for gone, should it still listen, that its request was cut off.
          const cut = plane === "haproxy" ? /^(HTTP\/1\.1 [24]00 |$)/ : /^(HTTP\/1\.1 200 |$)/;
          for (const { text } of asked) assert.match(text, cut);
          await neighbourIsWell();
        } finally {
          leave([...asked, ...silent]);
        }
      }),
  );

  test(
    "an app that resets every connection has its own failures, and nobody else",
    { timeout: patienceMs },
    () =>
      bounded(async () => {
        for (let round = 0; round < 20; round++) {
          const answers = await Promise.allSettled([
            ...Array.from({ length: 10 }, () => rig.fetch("victim.clinic.test", "/reset")),
            ...Array.from({ length: 10 }, () => rig.fetch("victim.clinic.test", "/half")),
          ]);
          for (const answer of answers.slice(0, 10))
            assert.equal(answer.status === "fulfilled" && answer.value.status, 502);
          for (const answer of answers.slice(10))
            // Where its first half was overtaken by the reset there was no answer yet.
            assert.ok(
              answer.status === "rejected" || answer.value.status === 502,
              "a cut answer must not look whole",
            );
          await neighbourIsWell(5);
        }
        assert.equal((await rig.fetch("victim.clinic.test")).body, "victim");
      }),
  );

  test(
    "after all of that the edge holds no more connections than before",
    { timeout: patienceMs },
    async () => {
      await waitFor("an edge at rest", async () => (await health()).tunnels === 0, patienceMs);
      await neighbourIsWell();
    },
  );
}
