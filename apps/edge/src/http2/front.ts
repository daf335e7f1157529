import { createSecureServer, type Http2SecureServer, type ServerHttp2Session } from "node:http2";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { TLSSocket } from "node:tls";
import type { Log } from "@platform/daemon";
import { TranslatedRequest, TranslatedResponse } from "./messages.ts";

/** A connection without a request is closed after this long, milliseconds. */
const IDLE_MS = 65_000;
const MAX_STREAMS = 100;
const MAX_HEADER_BYTES = 64 * 1024;
const MAX_HEADERS = 256;
/** Streams that a client may open and reset at once, and a second after that (CVE-2023-44487). */
const RESET_BURST = 200;
const RESET_RATE = 33;

export interface Http2Handlers {
  readonly request: (req: IncomingMessage, res: ServerResponse, expectsContinue: boolean) => void;
  readonly log: Log;
}

/**
 * Takes TLS connections that chose HTTP/2. It does not listen itself: one listener has the sockets of both
 * protocols, and its limits count for both.
 */
export class Http2Front {
  readonly #server: Http2SecureServer<typeof IncomingMessage, typeof ServerResponse>;
  readonly #sessions = new Set<ServerHttp2Session>();

  constructor({ request, log }: Http2Handlers) {
    const server = createSecureServer({
      maxSessionInvalidFrames: 100,
      maxSessionRejectedStreams: 100,
      maxHeaderListPairs: MAX_HEADERS,
      streamResetBurst: RESET_BURST,
      streamResetRate: RESET_RATE,
      settings: {
        maxConcurrentStreams: MAX_STREAMS,
        maxHeaderListSize: MAX_HEADER_BYTES,
        enablePush: false,
      },
      Http2ServerRequest: TranslatedRequest,
      Http2ServerResponse: TranslatedResponse,
    } as Parameters<typeof createSecureServer>[0]);
    this.#server = server as never;
    const take = (req: unknown, res: unknown, expectsContinue: boolean) =>
      request(req as IncomingMessage, res as ServerResponse, expectsContinue);
    server.on("request", (req, res) => take(req, res, false));
    server.on("checkContinue", (req, res) => take(req, res, true));
    server.on("session", (session) => this.#keep(session));
    server.on("sessionError", (error) => log.debug({ reason: error.message }, "HTTP/2 connection failed"));
  }

  /** @param socket after its handshake, with `h2` chosen */
  take(socket: TLSSocket): void {
    this.#server.emit("secureConnection", socket);
  }

  get size(): number {
    return this.#sessions.size;
  }

  /** Requests on the way finish; no new one is taken. */
  drain(): void {
    for (const session of this.#sessions) session.close();
  }

  destroy(): void {
    for (const session of this.#sessions) session.destroy();
  }

  #keep(session: ServerHttp2Session): void {
    this.#sessions.add(session);
    let open = 0;
    session.on("stream", (stream) => {
      open++;
      stream.on("error", () => undefined); // The response says so to whoever waits for it.
      stream.once("close", () => open--);
    });
    // Silence on an open stream is an event stream without events; without streams nobody is there.
    session.setTimeout(IDLE_MS, () => {
      if (open === 0) session.close();
    });
    session.once("close", () => this.#sessions.delete(session));
  }
}
