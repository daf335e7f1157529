import type { Socket } from "node:net";
import type { WebSocket } from "ws";
import type { Call } from "./context.ts";
import { closeSocket, upgrade } from "./upgrade.ts";

/** Bytes that wait for a slow client before the other side is asked to wait. */
const mostWaitingBytes = 1024 * 1024;

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
