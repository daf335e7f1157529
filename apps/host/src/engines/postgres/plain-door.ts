import { once } from "node:events";
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { createServer, isIP, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect as connectTls } from "node:tls";
import { openConnection } from "../dedicated/connection.ts";
import type { Login } from "../dedicated/login.ts";

/** The message by which a client asks for TLS, and the server's consent. */
const tlsRequest = Buffer.from([0, 0, 0, 8, 4, 210, 22, 47]);
const consent = "S".charCodeAt(0);
const authentication = "R".charCodeAt(0);
const bySasl = 10;
const mostFirstBytes = 64 * 1024;

/**
 * A unix socket that only this user reaches and that leads to a server by TLS, its certificate verified: for
 * client programs that were built without TLS. It is gone, with all its connections, after `work`.
 *
 * @param work gets the folder of the socket; its port is 5432
 */
export async function withPlainDoor<T>(login: Login, work: (folder: string) => Promise<T>): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), "plain-"));
  chmodSync(folder, 0o700);
  const open = new Set<Socket>();
  const server = createServer((inner) => {
    open.add(inner);
    inner.on("error", () => inner.destroy());
    inner.once("close", () => open.delete(inner));
    lead(login, inner, open).catch(() => inner.destroy());
  });
  try {
    server.listen(join(folder, ".s.PGSQL.5432"));
    await once(server, "listening");
    return await work(folder);
  } finally {
    for (const socket of open) socket.destroy();
    server.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

async function lead(login: Login, inner: Socket, open: Set<Socket>): Promise<void> {
  inner.pause();
  const raw = await openConnection(login);
  open.add(raw);
  raw.once("close", () => open.delete(raw));
  raw.on("error", () => inner.destroy());
  raw.write(tlsRequest);
  const [answer] = (await once(raw, "data")) as [Buffer];
  if (answer.length !== 1 || answer[0] !== consent) throw new Error("the server refused TLS");
  const { hostname, caCertificate } = login;
  const name = isIP(hostname) ? {} : { servername: hostname };
  const outer = connectTls({ socket: raw, ca: caCertificate, ...name });
  outer.on("error", () => inner.destroy());
  await once(outer, "secureConnect");
  inner.once("close", () => outer.destroy());
  inner.pipe(outer);
  inner.write(withoutBinding(await firstMessage(outer)));
  outer.pipe(inner);
}

/** Up to the end of the server's first message, which has a type, a length without it, and content. */
async function firstMessage(outer: Socket): Promise<Buffer> {
  let got = Buffer.alloc(0);
  while (got.length < 5 || got.length < 1 + got.readUInt32BE(1)) {
    const [part] = (await once(outer, "data")) as [Buffer];
    got = Buffer.concat([got, part]);
    if (got.length > mostFirstBytes) throw new Error("the server does not begin with a message");
  }
  outer.pause();
  return got;
}

/** A client without TLS takes an offer to bind its login to the TLS session for an attack. */
function withoutBinding(message: Buffer): Buffer {
  if (message[0] !== authentication || message.readUInt32BE(5) !== bySasl) return message;
  const mechanisms = Buffer.from("SCRAM-SHA-256\0\0");
  const head = Buffer.alloc(9);
  head[0] = authentication;
  head.writeUInt32BE(8 + mechanisms.length, 1);
  head.writeUInt32BE(bySasl, 5);
  return Buffer.concat([head, mechanisms]);
}
