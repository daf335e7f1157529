import { isIPv6, type Server, type Socket } from "node:net";
import type { TLSSocket } from "node:tls";

/** The binary form of the PROXY protocol, version 2: signature, command, family, length, addresses. */
const signature = Buffer.from("0d0a0d0a000d0a515549540a", "hex");
const HEAD_BYTES = 16;
const MAX_BYTES = HEAD_BYTES + 512;
const ANSWER_MS = 5_000;

/** Address that the header names; `null`: it is one of HAProxy's own connections. */
function addressIn(header: Buffer): string | null {
  const isProxied = (header[12]! & 0x0f) === 1;
  const family = header[13]! >> 4;
  if (!isProxied) return null;
  if (family === 1) return [...header.subarray(16, 20)].join(".");
  if (family !== 2) return null;
  const words = Array.from({ length: 8 }, (_, i) => header.readUInt16BE(16 + i * 2).toString(16));
  const address = words.join(":");
  return isIPv6(address) ? address : null;
}

const clients = new WeakMap<object, string>();

/**
 * Makes the server take connections that HAProxy passes on with their client's address before them, as if the
 * client had connected to it.
 */
export function acceptProxied(server: Server): void {
  const take = server.listeners("connection") as ((socket: Socket) => void)[];
  server.removeAllListeners("connection");
  server.on("connection", (socket: Socket) => {
    let seen = Buffer.alloc(0);
    const timer = setTimeout(() => socket.destroy(), ANSWER_MS);
    const fail = () => void socket.destroy();
    const read = (chunk: Buffer) => {
      seen = Buffer.concat([seen, chunk]);
      if (seen.length < HEAD_BYTES) return;
      const length = HEAD_BYTES + seen.readUInt16BE(14);
      if (!seen.subarray(0, 12).equals(signature) || length > MAX_BYTES) return fail();
      if (seen.length < length) return;
      clearTimeout(timer);
      socket.off("data", read).off("error", fail).off("close", stop);
      socket.pause();
      const address = addressIn(seen.subarray(0, length));
      if (address !== null) clients.set(socket, address);
      if (seen.length > length) socket.unshift(seen.subarray(length));
      for (const listener of take) listener.call(server, socket);
    };
    const stop = () => clearTimeout(timer);
    socket.on("data", read).on("error", fail).on("close", stop);
  });
}

/** Gives the connection the address that its client has, after the handshake. */
export function nameClient(socket: TLSSocket): void {
  const inner = (socket as TLSSocket & { readonly _parent?: Socket })._parent;
  const address = inner && clients.get(inner);
  if (address !== undefined) Object.defineProperty(socket, "remoteAddress", { value: address });
}
