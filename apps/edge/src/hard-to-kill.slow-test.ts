import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { after, before, test } from "node:test";
import { waitFor } from "@platform/daemon";
import { Rig, type App } from "./testing/rig.ts";

/** 10,000 with as many to the app need more descriptors than most machines give: `ABUSE_SOCKETS=4000`. */
const sockets = Number(process.env["ABUSE_SOCKETS"] ?? 1_000);
const patienceMs = 120_000;
/** Most that the edge may grow by while it is abused: buffers of its connections, not what was sent. */
const maxGrowthMib = 400;
const head = "GET / HTTP/1.1\r\nHost: victim.clinic.test\r\n";

let rig: Rig;
let victim: App;
let neighbour: App;
const open = new Set<Socket>();
before(async () => {
  rig = await Rig.start();
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
  victim.server.on("upgrade", (_req, socket: Socket) => {
    socket.on("error", () => socket.destroy());
    socket.write("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n");
    socket.on("data", (data) => socket.write(data));
    socket.on("end", () => socket.end());
  });
  neighbour = await rig.app((_req, res) => res.end("neighbour"));
  await rig.publish({ "victim.clinic.test": victim.target, "neighbour.clinic.test": neighbour.target });
});
after(() => {
  for (const socket of open) socket.destroy();
  return rig.stop();
});

const rssMib = () =>
  Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${rig.edge.child.pid}/status`, "utf8"))![1]) / 1024;

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
                socket.on("data", (part) => (one.text = (one.text + part.toString("latin1")).slice(0, 200)));
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

test("idle WebSockets cost little each, and every one still answers", { timeout: 300_000 }, () =>
  bounded(async () => {
    const idle = await attack(sockets, `${head}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n`);
    try {
      await waitFor(
        "all upgrades",
        () => idle.every(({ text }) => text.startsWith("HTTP/1.1 101")),
        patienceMs,
      );
      await neighbourIsWell();
      for (const one of idle) one.text = "";
      for (const { socket } of idle) socket.write("still there");
      await waitFor("all answers", () => idle.every(({ text }) => text === "still there"), patienceMs);
    } finally {
      leave(idle);
    }
  }),
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
        for (const { text } of asked) assert.ok(text === "" || text.startsWith("HTTP/1.1 200"), text);
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
          assert.equal(answer.status, "rejected", "a cut answer must not look whole");
        await neighbourIsWell(5);
      }
      assert.equal((await rig.fetch("victim.clinic.test")).body, "victim");
    }),
);

test(
  "after all of that the edge holds no more connections than before",
  { timeout: patienceMs },
  async () => {
    await waitFor(
      "an edge at rest",
      async () => {
        const health = JSON.parse((await rig.fetch("edge.internal", "/healthz")).body) as { tunnels: number };
        return health.tunnels === 0;
      },
      patienceMs,
    );
    await neighbourIsWell();
  },
);
