import { ServerResponse, type IncomingMessage } from "node:http";
import type { Socket } from "node:net";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { WebSocketServer, type WebSocket } from "ws";
import { PlatformError } from "@platform/contract";

const upgradeHead = Symbol("upgrade head");
type Upgrading = IncomingMessage & { [upgradeHead]?: Buffer };

/** Largest message that a client may send, bytes. */
const maxMessageBytes = 1024 * 1024;

/**
 * Lets upgrade requests take the way of all others, so that keys, scopes, parameters and refusals are the
 * same; the handler then takes the connection over with `upgrade`.
 */
export function acceptUpgrades(app: FastifyInstance): void {
  app.server.on("upgrade", (request: Upgrading, socket: Socket, head: Buffer) => {
    request[upgradeHead] = head;
    const response = new ServerResponse(request);
    response.shouldKeepAlive = false;
    socket.on("error", () => socket.destroy());
    response.assignSocket(socket);
    // Reached by refusals only.
    response.once("finish", () => {
      response.detachSocket(socket);
      socket.destroySoon();
    });
    app.routing(request, response);
  });
}

/**
 * @param protocols subprotocols that are spoken, the preferred one first; a client that names none gets none
 * @throws PlatformError UPGRADE_REQUIRED
 */
export async function upgrade(
  request: FastifyRequest,
  reply: FastifyReply,
  protocols: readonly string[] = [],
): Promise<WebSocket> {
  const raw = request.raw as Upgrading;
  const head = raw[upgradeHead];
  if (!head || raw.headers.upgrade?.toLowerCase() !== "websocket")
    throw new PlatformError(
      "UPGRADE_REQUIRED",
      "This address speaks WebSocket only. Connect with a WebSocket client.",
    );
  const { socket } = raw;
  reply.hijack();
  reply.raw.detachSocket(socket);
  const server = new WebSocketServer({
    noServer: true,
    maxPayload: maxMessageBytes,
    perMessageDeflate: false,
    handleProtocols: (offered) => protocols.find((one) => offered.has(one)) ?? false,
  });
  return new Promise((resolve, reject) => {
    server.on("wsClientError", (error) => reject(error));
    server.handleUpgrade(raw, socket, head, (connection) => {
      // A peer that breaks the protocol is cut off by the library; `close` tells whoever serves it.
      connection.on("error", () => undefined);
      resolve(connection);
    });
  });
}

/** Ends with 1000, or with 1011 and a reason a program can read. */
export const closeSocket = (socket: WebSocket, code: 1000 | 1011, reason = ""): void => {
  if (socket.readyState === socket.OPEN) socket.close(code, reason.slice(0, 120));
};
