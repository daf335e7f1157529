import { randomBytes } from "node:crypto";
import { request as httpRequest } from "node:http";
import { setTimeout as delay } from "node:timers/promises";
import type { ProbeRecord } from "@platform/contract";

export interface EdgeAnswer {
  readonly ok: boolean;
  readonly status: number | null;
  readonly latencyMs: number | null;
  /** `switched` or `answered` for an upgrade. */
  readonly kind: "answered" | "switched" | "failed";
}

/** A request by the public host name, through the edge, as a visitor's browser sends it. */
function ask(
  edgeUrl: string,
  hostname: string,
  port: number | null,
  path: string,
  upgrade: boolean,
  timeoutMs: number,
): Promise<EdgeAnswer> {
  const { hostname: address, port: edgePort } = new URL(edgeUrl);
  const startedAt = performance.now();
  return new Promise((resolve) => {
    const sent = httpRequest({
      host: address,
      port: Number(edgePort),
      path,
      method: "GET",
      timeout: timeoutMs,
      agent: false,
      headers: {
        host: port === null ? hostname : `${hostname}:${port}`,
        accept: "*/*",
        ...(upgrade
          ? {
              connection: "Upgrade",
              upgrade: "websocket",
              "sec-websocket-version": "13",
              "sec-websocket-key": randomBytes(16).toString("base64"),
            }
          : { connection: "close" }),
      },
    });
    const answer = (kind: EdgeAnswer["kind"], status: number | null) => {
      const latencyMs = performance.now() - startedAt;
      sent.destroy();
      resolve({ ok: kind !== "failed", status, latencyMs: status === null ? null : latencyMs, kind });
    };
    sent.on("response", (response) => {
      response.resume();
      answer("answered", response.statusCode ?? null);
    });
    sent.on("upgrade", (response, socket) => {
      socket.destroy();
      answer("switched", response.statusCode ?? 101);
    });
    sent.on("timeout", () => answer("failed", null));
    sent.on("error", () => answer("failed", null));
    sent.end();
  });
}

/** 502 to 504 are the edge's own words for "the app did not answer". */
const isFromApp = (status: number | null) =>
  status !== null && status !== 502 && status !== 503 && status !== 504;

/**
 * The second and third proof of a preview: a request and a WebSocket upgrade by public host name. An
 * app need not speak WebSocket; its own refusal (404, 426, …) shows that the upgrade reached it.
 */
export async function probeThroughEdge(
  edge: { url: string; publicPort: number | null },
  hostname: string,
  path: string,
  timeoutMs: number,
): Promise<Pick<ProbeRecord, "edge" | "websocket">> {
  const endsAt = performance.now() + timeoutMs;
  let http: EdgeAnswer = { ok: false, status: null, latencyMs: null, kind: "failed" };
  let socket: EdgeAnswer = http;
  for (let waitMs = 20; ; waitMs = Math.min(250, waitMs * 2)) {
    const left = Math.max(500, endsAt - performance.now());
    http = await ask(edge.url, hostname, edge.publicPort, path, false, left);
    if (isFromApp(http.status)) {
      socket = await ask(edge.url, hostname, edge.publicPort, path, true, left);
      if (socket.kind === "switched" || isFromApp(socket.status)) break;
    }
    if (performance.now() + waitMs >= endsAt) break;
    await delay(waitMs);
  }
  const round = (ms: number | null) => (ms === null ? null : Math.round(ms * 10) / 10);
  return {
    edge: {
      ok: isFromApp(http.status),
      http_status: http.status,
      latency_ms: round(http.latencyMs),
      hostname,
    },
    websocket: {
      ok: socket.kind === "switched" || (socket.kind === "answered" && isFromApp(socket.status)),
      answered: socket.kind === "switched" ? "switched" : String(socket.status ?? "no answer"),
      latency_ms: round(socket.latencyMs),
    },
  };
}
