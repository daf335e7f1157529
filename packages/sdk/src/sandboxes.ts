import { isUuid } from "./find.ts";
import { ApiError, ConnectionError } from "./error.ts";
import { newIdempotencyKey, type Query, type Transport } from "./transport.ts";
import type {
  ConsoleLine,
  CreateSandbox,
  EnvEntry,
  ExecEvent,
  ExecRequest,
  ExecResult,
  Exposed,
  FileEntry,
  FileUpload,
  Published,
  PublishRequest,
  Sandbox,
  Service,
  WriteManyResult,
} from "./types.ts";

/** A publish builds, freezes and boots the bundle once before it answers. */
const publishTimeoutMs = 600_000;
export class Sandboxes {
  readonly #http: Transport;
  constructor(http: Transport) {
    this.#http = http;
  }

  list = (query?: Query) => this.#http.json<Sandbox[]>("GET", "/sandboxes", { query });
  get = (id: string) => this.#http.json<Sandbox>("GET", at(id));
  /** By id, or by name for anything that is no id. */
  find = (idOrName: string) =>
    isUuid(idOrName)
      ? this.get(idOrName)
      : this.#http.json<Sandbox>("GET", `/sandboxes/by-name/${encodeURIComponent(idOrName)}`);
  create = (body: CreateSandbox = {}, idempotencyKey = newIdempotencyKey()) =>
    this.#http.json<Sandbox>("POST", "/sandboxes", { body, idempotencyKey });
  delete = (id: string) => this.#http.json<unknown>("DELETE", at(id));
  pause = (id: string) => this.#post<{ id: string; state: string }>(id, "pause", {});
  resume = (id: string) => this.#post<Sandbox>(id, "resume", {});
  /** Copies of one moment. */
  /** @param database what becomes of linked databases: the same ones unless said otherwise, a branch of each, or none */
  fork = async (id: string, count = 1, database?: "share" | "branch" | "none"): Promise<readonly Sandbox[]> =>
    (await this.#post<{ forks: Sandbox[] }>(id, "fork", { count, ...(database ? { database } : {}) })).forks;
  /** A new sandbox from the disk of a failed one. */
  recover = (id: string) => this.#post<Sandbox & { restored_from: string }>(id, "recover", {});
  logs = async (id: string, lines = 100): Promise<{ line: string; stream: string }[]> =>
    (
      await this.#http.json<{ logs: { line: string; stream: string }[] }>("GET", `${at(id)}/logs`, {
        query: { lines },
      })
    ).logs;
  /** What pages of its previews said in browsers, the newest last. */
  console = (id: string, options: { limit?: number; level?: ConsoleLine["level"] } = {}) =>
    this.#http.json<{ lines: ConsoleLine[]; dropped: number; cursor: number }>("GET", `${at(id)}/console`, {
      query: { limit: options.limit ?? 100, ...(options.level ? { level: options.level } : {}) },
    });
  /**
   * The same as it comes, without end.
   *
   * @param options.after `cursor` of a list; without it only what comes from now on
   * @throws ConnectionError STREAM_LOST
   */
  async *followConsole(
    id: string,
    options: { after?: number; signal?: AbortSignal } = {},
  ): AsyncGenerator<ConsoleLine | { dropped: number }> {
    const { after, signal } = options;
    for await (const event of this.#http.events("GET", `${at(id)}/console/stream`, {
      ...(signal ? { signal } : {}),
      ...(after === undefined ? {} : { lastEventId: after }),
    })) {
      if (event.event !== "preview.console") continue;
      const { data } = JSON.parse(event.data) as {
        data: { preview_id: string; port: number; entries: ConsoleLine[]; dropped: number };
      };
      for (const entry of data.entries)
        yield { ...entry, seq: Number(event.id), preview_id: data.preview_id, port: data.port };
      if (data.dropped > 0) yield { dropped: data.dropped };
    }
  }
  attachDatabase = (id: string, databaseId: string, env = "DATABASE_URL") =>
    this.#post<{ attached: boolean; env_vars: EnvEntry[] }>(id, "database", { database_id: databaseId, env });

  /**
   * Follows the readiness stream until the sandbox answers commands.
   *
   * @param options.timeoutMs default 120 000
   * @throws ApiError SANDBOX_FAILED or SANDBOX_READY_TIMEOUT
   */
  async waitUntilReady(
    id: string,
    options: { timeoutMs?: number; signal?: AbortSignal } = {},
  ): Promise<Sandbox> {
    const timeoutMs = options.timeoutMs ?? 120_000;
    const timer = AbortSignal.timeout(timeoutMs);
    const signal = options.signal ? AbortSignal.any([timer, options.signal]) : timer;
    let drops = 0;
    while (!signal.aborted) {
      try {
        for await (const event of this.#http.events("GET", `${at(id)}/readiness/stream`, { signal })) {
          if (event.event === "ready" || event.event === "timeout") break;
        }
      } catch (error) {
        if (options.signal?.aborted) throw error;
        if (timer.aborted) break;
        // A server that restarts drops the stream; the question stays the same.
        if (!(error instanceof ConnectionError) || ++drops > 10) throw error;
      }
      const sandbox = await this.get(id);
      if (sandbox.ready) return sandbox;
      if (sandbox.state === "error" || sandbox.state === "destroyed") throw failed(sandbox);
    }
    throw new ApiError({
      status: 504,
      code: "SANDBOX_READY_TIMEOUT",
      message: `The sandbox is not ready after ${timeoutMs / 1000} s.`,
      details: { sandbox_id: id },
    });
  }

  exec = (id: string, request: ExecRequest, signal?: AbortSignal) =>
    this.#http.json<ExecResult>("POST", `${at(id)}/exec`, {
      body: request,
      timeoutMs: ((request.timeout ?? 30) + 15) * 1000,
      signal,
    });

  /** Output as it comes, ended by exactly one `exit` event: -2 when the stream broke before it. */
  async *execStream(id: string, request: ExecRequest, signal?: AbortSignal): AsyncGenerator<ExecEvent> {
    try {
      for await (const event of this.#http.events("POST", `${at(id)}/exec/stream`, {
        body: request,
        signal,
      })) {
        const data = JSON.parse(event.data) as Record<string, unknown>;
        if (event.event === "stdout" || event.event === "stderr") {
          yield { type: event.event, line: String(data["line"] ?? "") };
        } else if (event.event === "exit") {
          yield { ...data, type: "exit", exit_code: Number(data["exit_code"]) } as ExecEvent;
          return;
        }
      }
    } catch (error) {
      if (!(error instanceof ConnectionError) || error.code !== "STREAM_LOST") throw error;
    }
    const message = "The stream ended before the command did; what became of it is unknown.";
    yield { type: "exit", exit_code: -2, error: { code: "STREAM_LOST", message } };
  }

  listFiles = async (id: string, path = "/workspace"): Promise<FileEntry[]> =>
    (await this.#http.json<{ entries: FileEntry[] }>("GET", `${at(id)}/files`, { query: { path } })).entries;
  readFile = (id: string, path: string) =>
    this.#http.bytes(
      `${at(id)}/files/${path.replace(/^\/+/, "").split("/").map(encodeURIComponent).join("/")}`,
    );
  writeFile = (id: string, file: FileUpload) =>
    this.#http.json<{ path: string; size_bytes: number }>("POST", `${at(id)}/files`, {
      body: { path: file.path, content: base64(file.content) },
      // Writing the same bytes twice changes nothing, so the call may be repeated.
      idempotencyKey: newIdempotencyKey(),
    });
  writeMany = (id: string, files: readonly FileUpload[]) =>
    this.#http.json<WriteManyResult>("POST", `${at(id)}/files/write-many`, {
      body: { files: files.map((file) => ({ path: file.path, content_base64: base64(file.content) })) },
      idempotencyKey: newIdempotencyKey(),
    });

  services = (id: string) => this.#http.json<Service[]>("GET", `${at(id)}/services`);
  service = (id: string, name: string) => this.#http.json<Service>("GET", `${at(id)}/services/${name}`);
  startService = (
    id: string,
    body: { name: string; command: string; cwd?: string; env?: Record<string, string> },
    idempotencyKey = newIdempotencyKey(),
  ) => this.#http.json<Service>("POST", `${at(id)}/services`, { body, idempotencyKey });
  serviceLogs = async (id: string, name: string, tail = 100): Promise<string[]> =>
    (
      await this.#http.json<{ lines: string[] }>("GET", `${at(id)}/services/${name}/logs`, {
        query: { tail },
      })
    ).lines;

  /** Resolves with a URL only once the port answered. */
  expose = (id: string, port?: number, waitMs?: number) =>
    this.#http.json<Exposed>("POST", `${at(id)}/expose`, {
      body: {
        ...(port === undefined ? {} : { port }),
        ...(waitMs === undefined ? {} : { wait_ms: waitMs }),
      },
      // The server waits for the port: asking again would wait as long once more.
      maxRetries: 0,
      // The same port gives the same preview for the sandbox's whole life.
      idempotencyKey: newIdempotencyKey(),
      timeoutMs: 120_000,
    });

  publish = (id: string, body: PublishRequest, idempotencyKey = newIdempotencyKey()) =>
    this.#http.json<Published>("POST", `${at(id)}/publish`, {
      body,
      idempotencyKey,
      timeoutMs: publishTimeoutMs,
    });

  env = (id: string) => this.#http.json<EnvEntry[]>("GET", `${at(id)}/env`);
  setEnv = (id: string, vars: Record<string, string>) =>
    this.#http.json<EnvEntry[]>("PUT", `${at(id)}/env`, {
      body: { vars: Object.entries(vars).map(([key, value]) => ({ key, value, encrypted: true })) },
    });

  #post<T>(id: string, action: string, body: unknown): Promise<T> {
    return this.#http.json<T>("POST", `${at(id)}/${action}`, { body, idempotencyKey: newIdempotencyKey() });
  }
}

const at = (id: string): string => `/sandboxes/${encodeURIComponent(id)}`;
const base64 = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("base64");

function failed(sandbox: Sandbox): ApiError {
  const reason = sandbox.metadata["last_error"];
  return new ApiError({
    status: 409,
    code: "SANDBOX_FAILED",
    message: `The sandbox is ${sandbox.state}${reason ? `: ${JSON.stringify(reason)}` : ""}.`,
    details: { sandbox_id: sandbox.id, state: sandbox.state },
  });
}
