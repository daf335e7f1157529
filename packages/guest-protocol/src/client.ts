import { Agent } from "node:http";
import type { Readable } from "node:stream";
import { createClient, type Client, type Interceptor } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { Filesystem } from "./gen/filesystem/filesystem_pb.js";
import { Process } from "./gen/process/process_pb.js";
import { exec, type ExecOptions, type ExecResult } from "./exec.ts";
import { discard, GuestError, send, sendJson, type GuestAddress } from "./http.ts";
import { linesOf } from "./lines.ts";
import type {
  AppliedConfig,
  CodeCell,
  CodeContext,
  CodeEvent,
  GuestConfigPatch,
  GuestService,
  ListeningPort,
  LogEvent,
  LogLine,
  ProbeOptions,
  ProbeResult,
  Readiness,
  SelfTest,
  ServiceRecord,
} from "./types.ts";

/** Longest message of a stream; the agent sends pieces of output far below it. */
const MAX_MESSAGE_BYTES = 16 * 1024 * 1024;
/** Longest line of a followed log: 16 Ki characters of output, each at most six bytes of JSON, and its frame. */
const MAX_LINE_BYTES = 256 * 1024;
/** Longest event of a cell of code: a result may hold an image. */
const MAX_EVENT_BYTES = 16 * 1024 * 1024;
/** Time beyond a service's grace that its removal may take, in ms. */
const STOP_MARGIN_MS = 15_000;
/** Time beyond a probe's own that its answer may take, in ms. */
const PROBE_GRACE_MS = 15_000;

export interface GuestServices {
  /** Starts or replaces; the same spec again leaves a running service alone. */
  put(spec: GuestService, signal?: AbortSignal): Promise<ServiceRecord>;
  /** @throws GuestError `NOT_FOUND` */
  get(name: string, signal?: AbortSignal): Promise<ServiceRecord>;
  list(signal?: AbortSignal): Promise<ServiceRecord[]>;
  /**
   * Resolves once its process group is gone, also if there was no such service.
   *
   * @param graceMs from SIGTERM to SIGKILL, milliseconds; 5 000 by default
   */
  remove(name: string, signal?: AbortSignal, graceMs?: number): Promise<void>;
  restart(name: string, signal?: AbortSignal): Promise<ServiceRecord>;
  logs(name: string, tail?: number, signal?: AbortSignal): Promise<LogLine[]>;
  /** The last `tail` lines, then new ones until aborted or until a service with restart `never` ended. */
  follow(name: string, tail?: number, signal?: AbortSignal): AsyncGenerator<LogEvent>;
  writeStdin(name: string, data: string | Uint8Array, signal?: AbortSignal): Promise<void>;
  /** @param signalName such as `SIGHUP`, sent to the whole process group */
  sendSignal(name: string, signalName: string, signal?: AbortSignal): Promise<void>;
}

export interface GuestClient {
  readonly process: Client<typeof Process>;
  readonly filesystem: Client<typeof Filesystem>;
  readonly services: GuestServices;
  exec(command: string, options?: ExecOptions): Promise<ExecResult>;
  /** @throws GuestError with status 404 when there is no such file */
  readFile(path: string, signal?: AbortSignal): Promise<Readable>;
  /** Replaces the file at once when all of it arrived; makes missing parent folders. */
  writeFile(path: string, content: Readable | Uint8Array | string, signal?: AbortSignal): Promise<void>;
  ports(signal?: AbortSignal): Promise<ListeningPort[]>;
  probe(port: number, options?: ProbeOptions, signal?: AbortSignal): Promise<ProbeResult>;
  ready(signal?: AbortSignal): Promise<Readiness>;
  readonly code: GuestCode;
  /** Tries everything that programs in the box need, and loads what commands from outside need. */
  selfTest(signal?: AbortSignal): Promise<SelfTest>;
  configure(patch: GuestConfigPatch, signal?: AbortSignal): Promise<AppliedConfig>;
  /** Closes idle connections. Not needed with an `agent` of the caller's own. */
  close(): void;
}

/** Cells of code in contexts that last. */
export interface GuestCode {
  /** What the cell says until it ends. Leaving early, or aborting, interrupts it. */
  run(cell: CodeCell, signal?: AbortSignal): AsyncGenerator<CodeEvent>;
  contexts(signal?: AbortSignal): Promise<CodeContext[]>;
  remove(id: string, signal?: AbortSignal): Promise<void>;
}

/** Client of one box's agent. Paths below `baseUrl` are kept, so it works through a host or an edge. */
export function createGuestClient(options: GuestAddress): GuestClient {
  const ownAgent = options.agent ? null : new Agent({ keepAlive: true, maxFreeSockets: 8 });
  const address: GuestAddress = { ...options, agent: options.agent ?? ownAgent ?? undefined };
  const transport = createConnectTransport({
    baseUrl: options.baseUrl,
    httpVersion: "1.1",
    readMaxBytes: MAX_MESSAGE_BYTES,
    nodeOptions: { agent: address.agent, socketPath: address.socketPath },
    interceptors: [withHeaders(options.headers ?? {})],
  });
  const process = createClient(Process, transport);
  return {
    process,
    filesystem: createClient(Filesystem, transport),
    services: createServices(address),
    exec: (command, execOptions) => exec(process, command, execOptions),
    readFile: (path, signal) => send(address, { method: "GET", path: filePath(path), signal }),
    writeFile: async (path, content, signal) => {
      const headers = { "content-type": "application/octet-stream" };
      const response = await send(address, {
        method: "POST",
        path: filePath(path),
        headers,
        body: content,
        signal,
      });
      await discard(response);
    },
    ports: (signal) => sendJson(address, { method: "GET", path: "/ports", signal }),
    probe: (port, probe = {}, signal) =>
      sendJson(
        address,
        { method: "POST", path: "/probe", signal, timeoutMs: (probe.timeoutMs ?? 30_000) + PROBE_GRACE_MS },
        { port, ...probe },
      ),
    ready: (signal) => sendJson(address, { method: "GET", path: "/ready", signal }),
    selfTest: (signal) => sendJson(address, { method: "POST", path: "/self-test", signal }),
    configure: (patch, signal) => sendJson(address, { method: "PUT", path: "/config", signal }, patch),
    code: createCode(address),
    close: () => ownAgent?.destroy(),
  };
}

const filePath = (path: string) => `/files?path=${encodeURIComponent(path)}`;

const withHeaders =
  (headers: Record<string, string>): Interceptor =>
  (next) =>
  (request) => {
    for (const [name, value] of Object.entries(headers)) request.header.set(name, value);
    return next(request);
  };

function createCode(address: GuestAddress): GuestCode {
  return {
    async *run(cell, signal) {
      const headers = { "content-type": "application/json" };
      const body = JSON.stringify(cell);
      const path = "/interpreter/execute";
      const response = await send(address, { method: "POST", path, headers, body, signal });
      try {
        for await (const line of linesOf(response, MAX_EVENT_BYTES))
          if (line !== "") yield JSON.parse(line) as CodeEvent;
      } finally {
        response.destroy();
      }
    },
    contexts: (signal) => sendJson(address, { method: "GET", path: "/interpreter/contexts", signal }),
    remove: async (id, signal) => {
      const path = `/interpreter/contexts/${encodeURIComponent(id)}`;
      await discard(await send(address, { method: "DELETE", path, signal }));
    },
  };
}

function createServices(address: GuestAddress): GuestServices {
  const at = (name: string, rest = "") => {
    // URL parsing takes these for folders, whatever their encoding.
    if (/^\.{0,2}$/.test(name)) throw new GuestError("INVALID", 400, `"${name}" cannot name a service.`);
    return `/services/${encodeURIComponent(name)}${rest}`;
  };
  const post = async (path: string, body: string | Uint8Array, type: string, signal?: AbortSignal) => {
    const headers = { "content-type": type };
    await discard(await send(address, { method: "POST", path, headers, body, signal }));
  };
  return {
    put: async (spec, signal) => sendJson(address, { method: "PUT", path: at(spec.name), signal }, spec),
    get: async (name, signal) => sendJson(address, { method: "GET", path: at(name), signal }),
    list: (signal) => sendJson(address, { method: "GET", path: "/services", signal }),
    remove: async (name, signal, graceMs) => {
      const path = at(name, graceMs === undefined ? "" : `?grace_ms=${graceMs}`);
      const timeoutMs = graceMs === undefined ? {} : { timeoutMs: graceMs + STOP_MARGIN_MS };
      await discard(await send(address, { method: "DELETE", path, signal, ...timeoutMs }));
    },
    restart: async (name, signal) =>
      sendJson(address, { method: "POST", path: at(name, "/restart"), signal }),
    logs: async (name, tail = 100, signal) => {
      const path = at(name, `/logs?tail=${tail}`);
      return (await sendJson<{ lines: LogLine[] }>(address, { method: "GET", path, signal })).lines;
    },
    async *follow(name, tail = 100, signal) {
      const path = at(name, `/logs/stream?tail=${tail}`);
      const response = await send(address, { method: "GET", path, signal });
      try {
        for await (const line of linesOf(response, MAX_LINE_BYTES)) {
          if (line !== "") yield JSON.parse(line) as LogEvent;
        }
      } finally {
        response.destroy();
      }
    },
    writeStdin: async (name, data, signal) =>
      post(at(name, "/stdin"), data, "application/octet-stream", signal),
    sendSignal: async (name, signalName, signal) =>
      post(at(name, "/signal"), JSON.stringify({ signal: signalName }), "application/json", signal),
  };
}
