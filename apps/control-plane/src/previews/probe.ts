import { randomBytes } from "node:crypto";
import { request as httpRequest, type IncomingMessage } from "node:http";
import type { Socket } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import type { ProbeRecord } from "@platform/contract";
import { edgePageHeader } from "@platform/edge-api";

export interface EdgeAnswer {
  readonly status: number | null;
  readonly latencyMs: number | null;
  /** `switched` or `answered` for an upgrade. */
  readonly kind: "answered" | "switched" | "failed";
  /** False for a page of the edge itself, whatever its status. */
  readonly isFromApp: boolean;
}

/** An upgrade as a client of the app sends it. */
interface Offer {
  readonly protocol: string | null;
  /** In place of the path that was asked for. */
  readonly path: string | null;
}

/** By turns: dev servers leave upgrades without an answer, or close them, that are not for their own live reload. */
const offers: readonly Offer[] = [
  { protocol: null, path: null },
  { protocol: "vite-ping", path: null },
  { protocol: null, path: "/_next/webpack-hmr" },
];

const upgradeHeaders = ({ protocol }: Pick<Offer, "protocol">): Record<string, string> => ({
  connection: "Upgrade",
  upgrade: "websocket",
  "sec-websocket-version": "13",
  "sec-websocket-key": randomBytes(16).toString("base64"),
  ...(protocol === null ? {} : { "sec-websocket-protocol": protocol }),
});

/** A request by the public host name, through the edge, as a visitor's browser sends it. */
function ask(
  edgeUrl: string,
  hostname: string,
  port: number | null,
  path: string,
  upgrade: Offer | null,
  timeoutMs: number,
): Promise<EdgeAnswer> {
  const { hostname: address, port: edgePort } = new URL(edgeUrl);
  const startedAt = performance.now();
  return new Promise((resolve) => {
    const sent = httpRequest({
      host: address,
      port: Number(edgePort),
      path: upgrade?.path ? `${upgrade.path}${new URL(path, "http://app").search}` : path,
      method: "GET",
      timeout: timeoutMs,
      agent: false,
      headers: {
        host: port === null ? hostname : `${hostname}:${port}`,
        accept: "*/*",
        ...(upgrade ? upgradeHeaders(upgrade) : { connection: "close" }),
      },
    });
    const answer = (kind: EdgeAnswer["kind"], response: IncomingMessage | null) => {
      const latencyMs = response === null ? null : performance.now() - startedAt;
      const isFromApp = response !== null && response.headers[edgePageHeader] === undefined;
      sent.destroy();
      resolve({ status: response?.statusCode ?? null, latencyMs, kind, isFromApp });
    };
    sent.on("response", (response) => {
      response.resume();
      answer("answered", response);
    });
    sent.on("upgrade", (response, socket) => {
      socket.destroy();
      answer("switched", response);
    });
    sent.on("timeout", () => answer("failed", null));
    sent.on("error", () => answer("failed", null));
    sent.end();
  });
}

/** How long a server may think about an upgrade before it counts as left without an answer, milliseconds. */
const upgradeAnswerMs = 1_500;

/**
 * Whether the server itself has no answer for an upgrade at this path, asked inside: it leaves it open, or closes it
 * without a word. Many dev servers do so for paths that are not their live reload's. Then the edge lost nothing.
 *
 * @param dial a connection to the port, past the edge
 */
export async function answersNoUpgrade(
  dial: () => Promise<Socket>,
  hostname: string,
  path: string,
): Promise<boolean> {
  let socket: Socket;
  try {
    socket = await dial();
  } catch {
    // It cannot be asked, so it is not known to.
    return false;
  }
  const lines = Object.entries({ host: hostname, ...upgradeHeaders({ protocol: null }) }).map(
    ([name, value]) => `${name}: ${value}\r\n`,
  );
  return new Promise((resolve) => {
    const end = (isWordless: boolean) => {
      clearTimeout(timer);
      socket.destroy();
      resolve(isWordless);
    };
    const timer = setTimeout(() => end(true), upgradeAnswerMs);
    socket.on("data", () => end(false));
    for (const event of ["end", "close", "error"]) socket.on(event, () => end(true));
    socket.write(`GET ${path} HTTP/1.1\r\n${lines.join("")}\r\n`);
  });
}

/** How long an app that answers may refuse upgrades without a word, milliseconds: it may be restarting. */
const upgradePatienceMs = 2_000;
/** Failed tries before it is worth a look whether the server is still there. */
const triesBeforeLook = 3;

/**
 * The second and third proof of a preview: a request and a WebSocket upgrade by public host name. An
 * app need not speak WebSocket; its own refusal (404, 426, …) shows that the upgrade reached it.
 *
 * @param isGone looks whether the server went away for good: then nothing is waited for
 * @param isSilent looks inside whether the server itself has no answer for upgrades
 */
export async function probeThroughEdge(
  edge: { url: string; publicPort: number | null },
  hostname: string,
  path: string,
  timeoutMs: number,
  isGone: () => Promise<boolean> = async () => false,
  isSilent: () => Promise<boolean> = async () => false,
): Promise<Pick<ProbeRecord, "edge" | "websocket">> {
  const endsAt = performance.now() + timeoutMs;
  const nothing: EdgeAnswer = { status: null, latencyMs: null, kind: "failed", isFromApp: false };
  let http = nothing;
  let socket = nothing;
  let firstRefusalAt: number | null = null;
  for (let tries = 1, waitMs = 20; ; tries++, waitMs = Math.min(250, waitMs * 2)) {
    const left = Math.max(500, endsAt - performance.now());
    // At once: neither needs the other's answer, and a server must bear two visitors.
    [http, socket] = await Promise.all([
      ask(edge.url, hostname, edge.publicPort, path, null, left),
      ask(
        ...([edge.url, hostname, edge.publicPort, path] as const),
        ...([offers[(tries - 1) % offers.length]!, Math.min(left, upgradeAnswerMs)] as const),
      ),
    ]);
    if (http.isFromApp) {
      if (socket.isFromApp) break;
      firstRefusalAt ??= performance.now();
      if (tries >= offers.length && performance.now() - firstRefusalAt >= upgradePatienceMs) break;
    } else if (tries >= triesBeforeLook && (await isGone())) break;
    if (performance.now() + waitMs >= endsAt) break;
    await delay(waitMs);
  }
  const isIgnored = http.isFromApp && !socket.isFromApp && (await isSilent());
  const round = (ms: number | null) => (ms === null ? null : Math.round(ms * 10) / 10);
  return {
    edge: { ok: http.isFromApp, http_status: http.status, latency_ms: round(http.latencyMs), hostname },
    websocket: {
      ok: socket.isFromApp || isIgnored,
      answered:
        socket.kind === "switched"
          ? "switched"
          : isIgnored
            ? "ignored, also when asked inside"
            : String(socket.status ?? "no answer"),
      latency_ms: round(socket.latencyMs),
    },
  };
}
