import { request as httpRequest, type IncomingMessage, type RequestOptions } from "node:http";
import { request as httpsRequest } from "node:https";
import { isIP } from "node:net";

export interface Answer {
  readonly url: string;
  readonly status: number;
  readonly statusText: string;
  /** Flat name-value pairs, trailers at the end. */
  readonly rawHeaders: readonly string[];
  readonly headers: IncomingMessage["headers"];
  /** As it came, still encoded. */
  readonly body: Buffer;
}

export interface Asked {
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
}

export interface Connection {
  /** `host:port` that is dialled for every host name; null: what the name resolves to. */
  readonly connectTo: string | null;
  /** Certificates are looked at, not judged: a wrong one is a finding of its own kind. */
  readonly timeoutMs: number;
}

const MAX_BODY_BYTES = 16 * 1024 * 1024;

/** One request, without following where it leads. @throws when nothing answers */
export function ask(url: string, asked: Asked, connection: Connection): Promise<Answer> {
  const { protocol, hostname, port, pathname, search, host } = new URL(url);
  const isTls = protocol === "https:";
  const [dialHost, dialPort] = connection.connectTo?.split(":") ?? [];
  const isLocal = /(?:^|\.)localhost$/.test(hostname);
  const options: RequestOptions & { servername?: string; rejectUnauthorized?: boolean } = {
    host: dialHost ?? (isLocal ? "127.0.0.1" : hostname.replace(/^\[|\]$/g, "")),
    port: dialPort ?? (port || (isTls ? 443 : 80)),
    path: pathname + search,
    method: asked.method ?? "GET",
    headers: { host, connection: "close", "accept-encoding": "gzip, br, zstd, deflate", ...asked.headers },
    agent: false,
    signal: AbortSignal.timeout(connection.timeoutMs),
    insecureHTTPParser: true,
    ...(isTls ? { rejectUnauthorized: false, ...(isIP(hostname) ? {} : { servername: hostname }) } : {}),
  };
  return new Promise((resolve, reject) => {
    const sent = (isTls ? httpsRequest : httpRequest)(options);
    sent.on("error", reject);
    const take = (response: IncomingMessage) => {
      const chunks: Buffer[] = [];
      let bytes = 0;
      const finish = () => {
        resolve({
          url,
          status: response.statusCode ?? 0,
          statusText: response.statusMessage ?? "",
          rawHeaders: [...response.rawHeaders, ...response.rawTrailers],
          headers: response.headers,
          body: Buffer.concat(chunks),
        });
        sent.destroy();
      };
      response.on("data", (chunk: Buffer) => {
        chunks.push(chunk);
        bytes += chunk.length;
        if (bytes > MAX_BODY_BYTES || isStream(response)) finish();
      });
      response.on("end", finish);
      response.on("error", reject);
    };
    sent.on("response", take);
    sent.on("upgrade", (response, socket) => {
      socket.destroy();
      take(response);
      response.emit("end");
    });
    sent.end(asked.body);
  });
}

/** A stream of events may have no end: its first part has to do. */
const isStream = ({ headers }: IncomingMessage): boolean =>
  (headers["content-type"] ?? "").startsWith("text/event-stream");
