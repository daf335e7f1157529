import { createServer as createHttpServer } from "node:http";
import type { Http2Server } from "node:http2";
import { createServer, type Server, type Socket } from "node:net";
import type { Duplex } from "node:stream";
import { unlinkSync } from "node:fs";
import type { Request, Response } from "./http.ts";
import { openHttp1Tunnel, openHttp2Tunnel } from "./network/tunnel.ts";

/** First bytes of every HTTP/2 connection; no HTTP/1.1 method starts with them. */
const HTTP2_PREFACE_START = "PRI ";

export type Handler = (request: Request, response: Response) => void;

/**
 * One unix socket for HTTP/1.1 and for HTTP/2 without TLS, told apart by their first bytes.
 * A socket file that a dead agent left behind is replaced.
 */
export async function listen(socketPath: string, handler: Handler): Promise<Server> {
  const http1 = createHttpServer(
    // Uploads and followed logs last as long as they last.
    { requestTimeout: 0, headersTimeout: 60_000, keepAliveTimeout: 600_000 },
    handler,
  );
  http1.on("connect", (request, socket: Duplex, head: Buffer) => {
    void openHttp1Tunnel(request.url ?? "", socket, head);
  });
  let http2: Promise<Http2Server> | null = null;

  const server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on("error", () => socket.destroy());
    void firstBytes(socket).then(async (start) => {
      if (start === null) return;
      if (start !== HTTP2_PREFACE_START) {
        http1.emit("connection", socket);
        return;
      }
      http2 ??= createHttp2(handler);
      (await http2).emit("connection", socket);
    });
  });
  removeStale(socketPath);
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(socketPath, 1024, resolve);
  });
  return server;
}

/** Looks at the start of a connection and puts it back; `null` when it closed before. */
function firstBytes(socket: Socket): Promise<string | null> {
  const wanted = HTTP2_PREFACE_START.length;
  return new Promise((resolve) => {
    let seen = Buffer.alloc(0);
    const done = (start: string | null) => {
      socket.off("readable", look).off("close", close).off("end", close);
      resolve(start);
    };
    const close = () => {
      socket.destroy();
      done(null);
    };
    const look = () => {
      for (let chunk = socket.read() as Buffer | null; chunk; chunk = socket.read() as Buffer | null) {
        seen = Buffer.concat([seen, chunk]);
      }
      const start = seen.toString("latin1", 0, wanted);
      const decided = seen.length >= wanted || !HTTP2_PREFACE_START.startsWith(start);
      if (seen.length === 0 || !decided) return;
      done(start);
      socket.unshift(seen);
    };
    socket.on("readable", look).on("close", close).on("end", close);
  });
}

/** Loaded on first use: most boxes are only ever spoken to in HTTP/1.1. */
async function createHttp2(handler: Handler): Promise<Http2Server> {
  const { createServer: createHttp2Server } = await import("node:http2");
  const server = createHttp2Server({ settings: { initialWindowSize: 1024 * 1024 } }, (request, response) =>
    handler(request as never, response as never),
  );
  server.on("connect", (request, response) => {
    void openHttp2Tunnel(request, response);
  });
  server.on("sessionError", () => {
    // Node destroys the session; a peer that breaks off is nothing to act on.
  });
  return server;
}

function removeStale(socketPath: string): void {
  try {
    unlinkSync(socketPath);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
}
