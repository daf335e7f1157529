import type { FastifyReply } from "fastify";

/** A server-sent event stream, in the form every client parses. */
export interface EventStream {
  /** Sends one event; the JSON also carries `type`, because some clients ignore event names. */
  send(type: string, data: Record<string, unknown>, id?: string): void;
  close(): void;
  readonly signal: AbortSignal;
}

const heartbeatMs = 15_000;
/** Unread events kept for one client, in bytes. One that falls further behind loses its connection. */
const maxUnreadBytes = 16 * 1024 * 1024;

export function openEventStream(reply: FastifyReply): EventStream {
  const gone = new AbortController();
  reply.hijack();
  const raw = reply.raw;
  raw.writeHead(200, {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
    "x-request-id": reply.request.id,
  });
  raw.flushHeaders();
  const heartbeat = setInterval(() => raw.write(": heartbeat\n\n"), heartbeatMs);
  raw.on("close", () => {
    clearInterval(heartbeat);
    gone.abort();
  });
  return {
    signal: gone.signal,
    send(type, data, id) {
      if (raw.destroyed || gone.signal.aborted) return;
      const text = JSON.stringify({ type, ...data });
      raw.write(`${id === undefined ? "" : `id: ${id}\n`}event: ${type}\ndata: ${text}\n\n`);
      if (raw.writableLength > maxUnreadBytes) raw.destroy();
    },
    close() {
      clearInterval(heartbeat);
      if (!raw.destroyed) raw.end();
    },
  };
}
