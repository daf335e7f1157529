import { Client, escapeIdentifier } from "pg";
import { sleepUntil } from "@platform/daemon";
import { loginOptions, parsePostgresUrl } from "./connection-options.ts";

/**
 * Calls `onNotify` for each NOTIFY on `channel`, and with `null` after every (re)connection, since
 * notifications sent while it was away are lost: it is a hint to look, never the news itself.
 * Reconnects with a delay of 0.1 s doubling to 5 s.
 *
 * @returns resolves after the signal aborted and the connection is closed
 */
export async function listen(
  url: string,
  channel: string,
  onNotify: (payload: string | null) => void,
  options: { signal: AbortSignal; onError?: (error: Error) => void },
): Promise<void> {
  const { signal } = options;
  let delayMs = 100;
  while (!signal.aborted) {
    try {
      await listenOnce(url, channel, signal, (payload) => {
        delayMs = 100;
        onNotify(payload);
      });
    } catch (error) {
      options.onError?.(error instanceof Error ? error : new Error(String(error)));
    }
    await sleepUntil(Date.now() + delayMs, signal);
    delayMs = Math.min(5_000, delayMs * 2);
  }
}

async function listenOnce(
  url: string,
  channel: string,
  signal: AbortSignal,
  onNotify: (payload: string | null) => void,
): Promise<void> {
  const client = new Client(loginOptions({ ...parsePostgresUrl(url), applicationName: "platform-listen" }));
  const closed = new Promise<void>((resolve) => {
    client.on("error", () => resolve());
    client.on("end", () => resolve());
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
  try {
    await client.connect();
    client.on("notification", (message) => onNotify(message.payload ?? ""));
    await client.query(`listen ${escapeIdentifier(channel)}`);
    if (signal.aborted) return;
    onNotify(null);
    await closed;
  } finally {
    await client.end().catch(() => {
      // It is already lost, which is why we are here.
    });
  }
}
