import { connect, type Socket } from "node:net";
import type { Http2ServerRequest, Http2ServerResponse } from "node:http2";
import type { Duplex } from "node:stream";
import { listeningPorts } from "./ports.ts";
import { splice } from "./splice.ts";

/**
 * A server that accepts here is bound to all addresses, or to this one; one bound to 127.0.0.1 is
 * not. So only servers that would answer from outside count as reachable.
 */
export const REACHABLE_ADDRESS = "127.0.0.2";

export interface Refusal {
  readonly code: "INVALID" | "PORT_REFUSED" | "BOUND_TO_LOOPBACK";
  readonly status: number;
  readonly message: string;
}

/** Answers an HTTP/1.1 CONNECT with a raw stream to a port in the box. */
export async function openHttp1Tunnel(target: string, client: Duplex, head: Buffer): Promise<void> {
  client.on("error", () => client.destroy());
  const upstream = await dial(target);
  if ("code" in upstream) {
    const body = JSON.stringify({ error: { code: upstream.code, message: upstream.message, details: {} } });
    client.end(
      `HTTP/1.1 ${upstream.status} ${upstream.code}\r\ncontent-type: application/json\r\n` +
        `content-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`,
    );
    return;
  }
  if (client.destroyed) {
    upstream.destroy();
    return;
  }
  client.write("HTTP/1.1 200 Connection established\r\n\r\n");
  if (head.length > 0) upstream.write(head);
  splice(client, upstream);
}

/** The same for one stream of an HTTP/2 connection. */
export async function openHttp2Tunnel(
  request: Http2ServerRequest,
  response: Http2ServerResponse,
): Promise<void> {
  const { stream } = request;
  stream.on("error", () => stream.destroy());
  const upstream = await dial(request.authority);
  if ("code" in upstream) {
    response.writeHead(upstream.status, { "content-type": "application/json" });
    response.end(JSON.stringify({ error: { code: upstream.code, message: upstream.message, details: {} } }));
    return;
  }
  if (stream.destroyed) {
    upstream.destroy();
    return;
  }
  stream.respond({ ":status": 200 });
  splice(stream, upstream);
}

/** Host part of a target that may lead to a server which accepts only inside the box. */
const INSIDE = "inside:";

/** Any other host part of `target` is the caller's own name for the box and is not looked at. */
async function dial(target: string): Promise<Socket | Refusal> {
  const port = Number(/:(\d{1,5})$/.exec(target)?.[1]);
  if (!Number.isInteger(port) || port < 1 || port > 65_535) {
    return { code: "INVALID", status: 400, message: `CONNECT needs "name:port", got "${target}".` };
  }
  const socket = await dialPort(port);
  if (socket) return socket;
  const inside = target.startsWith(INSIDE)
    ? ((await dialPort(port, "127.0.0.1")) ?? (await dialPort(port, "::1")))
    : null;
  if (inside) return inside;
  const sockets = (await listeningPorts()).filter((entry) => entry.port === port);
  if (sockets.length > 0 && sockets.every((entry) => entry.loopbackOnly)) {
    const message = `Port ${port} accepts only from inside the box: bind the server to 0.0.0.0.`;
    return { code: "BOUND_TO_LOOPBACK", status: 502, message };
  }
  return { code: "PORT_REFUSED", status: 502, message: `Nothing accepts on port ${port} in the box.` };
}

/** `null` when nothing accepts. */
export function dialPort(port: number, host = REACHABLE_ADDRESS): Promise<Socket | null> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, allowHalfOpen: true, noDelay: true });
    const onError = () => resolve(null);
    socket.once("error", onError);
    socket.once("connect", () => {
      socket.off("error", onError);
      socket.on("error", () => socket.destroy());
      resolve(socket);
    });
  });
}
