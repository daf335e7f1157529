import { connect, type Socket } from "node:net";

/**
 * Clients in a process of their own: `PORT HOST COUNT` WebSockets that do nothing, until a line comes in on the
 * standard input, which each of them sends once. One line of JSON tells how many were taken or refused, one
 * how many heard the same back. Ends with its standard input.
 */
const [port, host, count] = [Number(process.argv[2]), process.argv[3]!, Number(process.argv[4])];
const AT_ONCE = 50;
const PATIENCE_MS = 60_000;
const handshake = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
const head = `GET / HTTP/1.1\r\nHost: ${host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n${handshake}\r\n\r\n`;
const tell = (what: object) => process.stdout.write(`${JSON.stringify(what)}\n`);
const open: Socket[] = [];
const refusals = new Map<string, number>();

/** Resolves with the first line of the answer. */
const join = () =>
  new Promise<void>((resolve) => {
    let text = "";
    const socket = connect(port, "127.0.0.1", () => socket.write(head));
    const refused = (why: string) => {
      clearTimeout(timer);
      refusals.set(why, (refusals.get(why) ?? 0) + 1);
      socket.removeAllListeners().on("error", () => undefined);
      socket.destroy();
      resolve();
    };
    const timer = setTimeout(() => refused("no answer"), PATIENCE_MS);
    socket.on("error", (error: NodeJS.ErrnoException) => refused(error.code ?? "error"));
    socket.on("close", () => refused("closed"));
    socket.on("data", (part) => {
      text += part.toString("latin1");
      if (!text.includes("\r\n\r\n")) return;
      if (!text.startsWith("HTTP/1.1 101 ")) return refused(text.slice(9, 12));
      clearTimeout(timer);
      socket.removeAllListeners().on("error", () => socket.destroy());
      open.push(socket);
      resolve();
    });
  });

for (let i = 0; i < count; i += AT_ONCE)
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, count - i) }, join));
tell({ open: open.length, refused: Object.fromEntries(refusals) });

process.stdin.setEncoding("utf8").on("data", (text: string) => {
  const line = text.trim();
  let heard = 0;
  const done = () => {
    clearTimeout(timer);
    tell({ heard });
  };
  const timer = setTimeout(done, PATIENCE_MS);
  for (const socket of open) {
    let back = "";
    socket.removeAllListeners("data").on("data", (part) => {
      back += part.toString();
      if (back === line && ++heard === open.length) done();
    });
    socket.write(line);
  }
});
process.stdin.on("end", () => process.exit(0));
