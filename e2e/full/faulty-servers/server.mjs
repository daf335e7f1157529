// `node server.mjs PORT FAULT DELAY_MS`: an HTTP server with one fault.
import { createHash } from "node:crypto";
import { createServer } from "node:http";
import { createServer as createRawServer } from "node:net";

const [port, fault, delay] = [Number(process.argv[2]), process.argv[3], Number(process.argv[4])];
const isRaw = fault === "garbage" || fault === "hangs-up";
const lastAnswer = fault.startsWith("crash-after-answer-") ? Number(fault.split("-").at(-1)) : Infinity;
let answers = 0;

const web = () => {
  const server = createServer((req, res) => {
    if (fault === "silent") return;
    const answer = () => {
      res.writeHead(fault === "error-500" ? 500 : 200, { "content-type": "text/plain" });
      res.end(`port ${port}\n`);
      answers += 1;
      if (answers >= lastAnswer) res.once("finish", () => process.exit(1));
    };
    if (fault === "slow") setTimeout(answer, delay);
    else answer();
  });
  if (fault === "closes-upgrade") server.on("upgrade", (req, socket) => socket.destroy());
  if (fault === "accepts-upgrade")
    server.on("upgrade", (req, socket) => {
      const key = `${req.headers["sec-websocket-key"]}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`;
      const accept = createHash("sha1").update(key).digest("base64");
      socket.on("error", () => socket.destroy());
      socket.write(
        `HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: ${accept}\r\n\r\n`,
      );
    });
  return server;
};

const raw = () =>
  createRawServer((socket) => {
    socket.on("error", () => socket.destroy());
    if (fault === "hangs-up") socket.destroy();
    else socket.write("220 mail ready\r\n");
  });

const listen = () => {
  const host = { "loopback-4": "127.0.0.1", "loopback-6": "::1" }[fault] ?? "0.0.0.0";
  (isRaw ? raw() : web()).listen(port, host, () => {
    process.send("listening");
    if (fault === "crash-at-listen") process.exit(1);
    if (fault === "crash-after-ms") setTimeout(() => process.exit(1), delay);
  });
};

if (fault === "never") setInterval(() => undefined, 1000);
else if (fault === "late") setTimeout(listen, delay);
else listen();
