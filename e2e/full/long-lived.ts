import { once } from "node:events";
import { WebSocket } from "ws";
import { request } from "undici";

/** A connection that was open before a switch, and what became of it. */
export interface LongLived {
  readonly kind: "websocket" | "events";
  /** True when the app behind it answered just now. */
  answers(): Promise<boolean>;
  close(): void;
}

const answerMs = 10_000;

export async function openWebSocket(edgePort: number, host: string): Promise<LongLived> {
  const socket = new WebSocket(`ws://127.0.0.1:${edgePort}/`, {
    headers: { host },
    handshakeTimeout: answerMs,
  });
  await once(socket, "open");
  socket.on("error", () => socket.terminate());
  let count = 0;
  return {
    kind: "websocket",
    close: () => socket.terminate(),
    answers: async () => {
      if (socket.readyState !== WebSocket.OPEN) return false;
      const text = `hello ${count++}`;
      const answered = once(socket, "message", { signal: AbortSignal.timeout(answerMs) });
      socket.send(text);
      const [data] = (await answered.catch(() => [""])) as [unknown];
      return String(data).endsWith(text);
    },
  };
}

export async function openEvents(edgePort: number, host: string): Promise<LongLived> {
  const abort = new AbortController();
  const response = await request(`http://127.0.0.1:${edgePort}/events`, {
    headers: { host },
    signal: abort.signal,
    bodyTimeout: 0,
  });
  let seen = 0;
  response.body.on("data", () => seen++);
  // Its end is what `answers` finds out.
  response.body.on("error", () => undefined);
  return {
    kind: "events",
    close: () => abort.abort(),
    answers: async () => {
      const before = seen;
      for (let waited = 0; waited < answerMs && seen === before && !response.body.closed; waited += 50)
        await new Promise((resolve) => setTimeout(resolve, 50));
      return seen > before;
    },
  };
}
