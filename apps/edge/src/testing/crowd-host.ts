import { createHash } from "node:crypto";
import { createServer } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { Host } from "./host.ts";

/**
 * A host and an app that takes every upgrade and echoes, in a process of their own: their descriptors are not
 * the test's. Ends with its standard input.
 */
const host = new Host();
const app = createServer((_req, res) => res.end("crowd"));
app.on("upgrade", ({ headers }, socket: Socket) => {
  socket.on("error", () => socket.destroy());
  // RFC 6455 section 4.2.2.
  const accept = createHash("sha1")
    .update(`${headers["sec-websocket-key"]}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`)
    .digest("base64");
  socket.write(
    `HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: ${accept}\r\n\r\n`,
  );
  socket.on("data", (data) => socket.write(data));
  socket.on("end", () => socket.end());
});
await new Promise<void>((resolve) => app.listen(0, "127.0.0.1", 4_096, resolve));
host.ports.set("box-crowd:3000", (app.address() as AddressInfo).port);
await host.start();
process.stdout.write(`${JSON.stringify({ url: host.url })}\n`);
process.stdin.resume().on("end", () => process.exit(0));
