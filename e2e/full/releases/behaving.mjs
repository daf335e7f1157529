// A release whose behaviour stands in release.json: over HTTP, as an event stream, and over a WebSocket that echoes.
import { createHash } from "node:crypto";
import { createServer } from "node:http";
import { readFileSync } from "node:fs";

const { name, behaviour = "good" } = JSON.parse(
  readFileSync(new URL("release.json", import.meta.url), "utf8"),
);
const healthPath = "/healthz";
/** Longer than the slowest request that the tests send: what began is finished before the end. */
const goodbyeMs = 2_600;
const held = [];

const server = createServer(async (req, res) => {
  if (req.url === "/events") {
    res.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
    const tick = () => res.write(`data: ${name}\n\n`);
    const timer = setInterval(tick, 250);
    res.once("close", () => clearInterval(timer));
    tick();
    return;
  }
  let sizeBytes = 0;
  for await (const chunk of req) sizeBytes += chunk.length;
  if (req.url === "/kill") process.kill(process.pid, "SIGKILL");
  if (req.url === "/oom") for (;;) held.push(Buffer.alloc(16 * 1024 * 1024, 1));
  if (req.url === "/log") console.log(`asked for a line by ${name}`);
  const isHealth = req.url === healthPath;
  if (behaviour === "ill" && isHealth) res.statusCode = 503;
  if (behaviour === "broken" && !isHealth) res.statusCode = 500;
  res.setHeader("content-type", "application/json");
  res.end(
    JSON.stringify({ release: name, sizeBytes, mark: process.env.LOAD_MARK ?? null, pid: process.pid }),
  );
});

server.on("upgrade", (req, socket) => {
  const key = `${req.headers["sec-websocket-key"]}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`;
  const accept = createHash("sha1").update(key).digest("base64");
  socket.on("error", () => socket.destroy());
  socket.write(
    `HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: ${accept}\r\n\r\n`,
  );
  // Text frames under 126 bytes, each in one piece: what the test sends.
  socket.on("data", (frame) => {
    if ((frame[0] & 0x0f) !== 1) return socket.end();
    const mask = frame.subarray(2, 6);
    const payload = frame.subarray(6, 6 + (frame[1] & 0x7f)).map((byte, at) => byte ^ mask[at % 4]);
    const answer = Buffer.from(`${name} ${Buffer.from(payload).toString()}`);
    socket.write(Buffer.concat([Buffer.from([0x81, answer.length]), answer]));
  });
});

process.on("SIGTERM", () => {
  console.log(`${name} says goodbye`);
  process.exit(0);
});

server.listen(Number(process.env.PORT ?? 3000), "0.0.0.0", () => {
  console.log(`${name} listens`);
  if (behaviour !== "crashing") return;
  // Takes nothing more, finishes what it has, ends; and so it goes at every start.
  setTimeout(() => {
    server.close();
    server.closeIdleConnections();
    setTimeout(() => process.exit(7), goodbyeMs);
  }, 1_500);
});
