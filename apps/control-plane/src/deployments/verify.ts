import { request } from "node:http";
import { setTimeout as delay } from "node:timers/promises";
import { edgePageHeader } from "@platform/edge-api";
import type { Platform } from "../platform.ts";

/** With an app that answers with errors, milliseconds. */
const patienceMs = 5_000;
/** With an edge or a host that does not answer: it may be starting again, milliseconds. */
const restartPatienceMs = 30_000;

interface Seen {
  readonly status: number | null;
  /** False for a page of the edge itself, such as "not found" where the route is not in force yet. */
  readonly isFromApp: boolean;
}

function once(platform: Platform, hostname: string, path: string): Promise<Seen> {
  const edge = new URL(platform.settings.edgeUrl);
  const port = platform.settings.publicPort;
  return new Promise((resolve) => {
    const sent = request(
      {
        host: edge.hostname,
        port: Number(edge.port),
        path,
        agent: false,
        timeout: 2_000,
        headers: {
          host: port === null ? hostname : `${hostname}:${port}`,
          accept: "*/*",
          connection: "close",
        },
      },
      (response) => {
        response.resume();
        const status = response.statusCode ?? null;
        resolve({ status, isFromApp: response.headers[edgePageHeader] === undefined });
      },
    );
    sent.on("timeout", () => sent.destroy());
    sent.on("error", () => resolve({ status: null, isFromApp: false }));
    sent.end();
  });
}

/** Asks by the public host name, through the edge, until the app answers or patience is over. */
export async function answersThroughEdge(
  platform: Platform,
  hostname: string,
  path: string,
  signal: AbortSignal,
): Promise<{ ok: boolean; status: number | null }> {
  const startedAt = performance.now();
  for (;;) {
    const { status, isFromApp } = await once(platform, hostname, path);
    if (isFromApp && status !== null && status < 500) return { ok: true, status };
    const waitedMs = performance.now() - startedAt;
    if (waitedMs >= (isFromApp ? patienceMs : restartPatienceMs) || signal.aborted)
      return { ok: false, status };
    await delay(50);
  }
}
