import { request as httpRequest } from "node:http";
import { edgePageHeader } from "@platform/edge-api";
import type { Settings } from "../platform.ts";

export interface HttpCall {
  path: string;
  method: string;
  headers?: Record<string, string>;
  body?: string;
}

export interface HttpAnswer {
  failure: "timeout" | "connection" | null;
  status: number;
  /** False for a page of the edge itself. */
  isFromApp: boolean;
  /** The first 64 KiB. */
  body: string;
  isTruncated: boolean;
}

const outputBytes = 64 * 1024;
const noAnswer = (failure: "timeout" | "connection"): HttpAnswer => ({
  ...{ failure, status: 0, isFromApp: false },
  ...{ body: "", isTruncated: false },
});

/**
 * @param options.executionId sent as `x-execution-id`, the same for each try of one occurrence, so that an app can
 *   tell a repetition
 */
export function requestThroughEdge(
  settings: Settings,
  hostname: string,
  call: HttpCall,
  options: { executionId: string; timeoutMs: number; signal: AbortSignal },
): Promise<HttpAnswer> {
  const edge = new URL(settings.edgeUrl);
  const host = settings.publicPort === null ? hostname : `${hostname}:${settings.publicPort}`;
  const timeout = AbortSignal.timeout(options.timeoutMs);
  return new Promise((resolve, reject) => {
    const fail = () => {
      if (options.signal.aborted) reject(options.signal.reason as Error);
      else resolve(noAnswer(timeout.aborted ? "timeout" : "connection"));
    };
    const sent = httpRequest({
      host: edge.hostname,
      port: Number(edge.port),
      path: call.path,
      method: call.method,
      agent: false,
      signal: AbortSignal.any([options.signal, timeout]),
      headers: {
        accept: "*/*",
        ...call.headers,
        host,
        "x-execution-id": options.executionId,
        "content-length": Buffer.byteLength(call.body ?? ""),
        connection: "close",
      },
    });
    sent.on("error", fail);
    sent.on("response", (response) => {
      const chunks: Buffer[] = [];
      let bytes = 0;
      response.on("data", (chunk: Buffer) => {
        bytes += chunk.length;
        if (bytes - chunk.length < outputBytes) chunks.push(chunk);
      });
      response.on("error", fail);
      response.on("end", () =>
        resolve({
          failure: null,
          status: response.statusCode ?? 0,
          isFromApp: response.headers[edgePageHeader] === undefined,
          // The column holds no null character.
          body: Buffer.concat(chunks).subarray(0, outputBytes).toString().replaceAll("\0", "\uFFFD"),
          isTruncated: bytes > outputBytes,
        }),
      );
    });
    sent.end(call.body);
  });
}
