import type { Socket } from "node:net";
import type { WebSocket } from "ws";
import { PlatformError } from "@platform/contract";
import { HostError } from "@platform/host-api";
import { guestOf } from "../guests.ts";
import { closeSocket, upgrade, type Call } from "../http/index.ts";
import type { Platform } from "../platform.ts";

/** Bytes that wait for a slow client before the other side is asked to wait. */
const mostWaitingBytes = 1024 * 1024;

const refusals = new Set(["PORT_REFUSED", "BOUND_TO_LOOPBACK"]);

/** @throws PlatformError PORT_NOT_REACHABLE with the reason */
export async function dial(
  platform: Platform,
  boxKey: string,
  port: number,
  signal: AbortSignal,
): Promise<Socket> {
  return platform.host.dialPort(boxKey, port, signal).catch(async (error: unknown) => {
    if (!(error instanceof HostError) || !refusals.has(error.code)) throw error;
    const ports = await guestOf(platform.host, boxKey)
      .ports(signal)
      .catch(() => []);
    const isLoopback = ports.some((one) => one.port === port && one.loopbackOnly);
    throw new PlatformError(
      "PORT_NOT_REACHABLE",
      isLoopback
        ? `The server on port ${port} is bound to 127.0.0.1. Bind it to 0.0.0.0.`
        : `Nothing listens on port ${port}. Start the server, then connect again.`,
      { details: { reason: isLoopback ? "bound_to_loopback" : "not_listening", port }, cause: error },
    );
  });
}

/**
 * Joins the WebSocket to a TCP connection that is open already: a refusal was an ordinary answer. Each
 * side waits for the other; text frames are no bytes and are passed over.
 */
export async function serveTunnel(call: Call, target: Socket): Promise<void> {
  target.on("error", () => target.destroy());
  let socket: WebSocket;
  try {
    socket = await upgrade(call.request, call.reply);
  } catch (error) {
    target.destroy();
    throw error;
  }
  socket.on("message", (data: Buffer, isBinary) => {
    if (!isBinary || target.destroyed || target.writableEnded) return;
    if (!target.write(data)) {
      socket.pause();
      target.once("drain", () => socket.resume());
    }
  });
  socket.on("close", () => {
    target.end();
    // What the app still says has no reader.
    target.resume();
  });
  target.on("data", (chunk: Buffer) => {
    if (socket.readyState !== socket.OPEN) return;
    socket.send(chunk, () => {
      if (socket.bufferedAmount < mostWaitingBytes) target.resume();
    });
    if (socket.bufferedAmount >= mostWaitingBytes) target.pause();
  });
  target.on("error", () => closeSocket(socket, 1011, "the connection to the port broke"));
  target.on("end", () => closeSocket(socket, 1000));
  target.on("close", () => closeSocket(socket, 1000));
  target.resume();
}
