import { connect, type Socket } from "node:net";
import type { Readable } from "node:stream";
import { z } from "zod";
import { Agent, request, type Dispatcher } from "undici";
import { Box, BoxSpec, BoxStats, Doctor, EgressAttempt, OomReport, type BoxPatch } from "./box.ts";
import {
  DatabaseCredentials,
  DatabaseStats,
  DatabaseUser,
  HostedDatabase,
  LoginProof,
  MigrationsDone,
  type MigrationsSpec,
  QueryAnswer,
  type QueryRequest,
  LogStock,
  type DatabaseSpec,
  type RestoreSpec,
} from "./database.ts";
import {
  Assembled,
  BundleCheck,
  BundleDiff,
  BundleSbom,
  Bundled,
  CollectedReport,
  Frozen,
  SnapshotInfo,
  type BundleRequest,
  type FillRequest,
} from "./artifact.ts";
import { ImageBuild, ImageLogLine, ImageReport, ImageUpload, type ImageBuildSpec } from "./image.ts";
import { PoolReport } from "./pool.ts";
import { Door } from "./door.ts";
import { FenceReport, Standing, type FenceRequest } from "./fence.ts";

/** Where a host daemon listens and the bearer token it wants. */
export interface HostAddress {
  /** Origin, such as http://127.0.0.1:7301 */
  readonly url: string;
  readonly token: string;
}

/**
 * The host said no, or did not answer. `code` is stable:
 * `NOT_FOUND`, `INVALID`, `ISOLATION_UNAVAILABLE`, `ENGINE_UNAVAILABLE`, `BOOT_FAILED`, `BOX_FAILED`,
 * `BOX_PAUSED`, `CONFLICT`, `DISK_FULL`, `LOGIN_FAILED`, `INTERNAL`, and, made here, `UNREACHABLE`.
 */
export class HostError extends Error {
  readonly code: string;
  readonly status: number;
  readonly details: Record<string, unknown>;
  constructor(
    code: string,
    status: number,
    message: string,
    details: Record<string, unknown> = {},
    options?: ErrorOptions,
  ) {
    super(message, options);
    this.name = "HostError";
    this.code = code;
    this.status = status;
    this.details = details;
  }
}

/**
 * Typed client of one host daemon. Every call is idempotent by key. "Not there" is `null`
 * (or success, for deletions); "could not look" throws.
 *
 * | call | HTTP |
 * | --- | --- |
 * | doctor | GET /doctor |
 * | pool | GET /pool |
 * | door | POST /doors |
 * | fence, standing | POST /fences; GET /fences?edge=&applied= |
 * | putBox, box, boxes, deleteBox, patchBox | PUT, GET, DELETE, PATCH /boxes/:key; GET /boxes |
 * | pause, resume | POST /boxes/:key/pause, /resume |
 * | stats, oom, egress | GET /boxes/:key/stats, /oom, /egress |
 * | snapshots, putSnapshot, deleteSnapshot | GET /snapshots; PUT /snapshots/:snapshotKey {boxKey}; DELETE /snapshots/:snapshotKey |
 * | checkBundle, diffBundles, bundleSbom | POST /bundle-check, /bundle-diff, /bundle-sbom |
 * | freeze, bundle, fill | POST /boxes/:key/freeze, /boxes/:key/bundle, /boxes/:key/fill |
 * | putChunk, assembleChunks, removeChunks | POST /chunks, /assembled-chunks, /removed-chunks |
 * | collectGarbage | POST /collected-artifacts {keep} |
 * | images, removeImage | GET /images; DELETE /images/sha256-<first 56 digits> |
 * | imageBuilds, putImageBuild, imageBuild, deleteImageBuild | GET /image-builds; PUT, GET, DELETE /image-builds/:key |
 * | putImageUpload, deleteImageUpload | PUT, DELETE /image-uploads/:key (bytes) |
 * | imageBuildLogs, cancelImageBuild | GET /image-builds/:key/logs?after=&limit=; POST …/cancel |
 * | guest | any /boxes/:key/guest/<path>: the guest agent's own HTTP, streamed both ways |
 * | dialPort | CONNECT <key>:<port>: raw stream to a port in the box |
 * | databases | PUT, GET, DELETE /databases/:key; POST …/start, /stop, /restart, /rotate, /end-rotation, /probe; GET …/credentials, /stats, /logs?lines= |
 * | backup, restore, copyDatabase | POST /databases/:key/backup; PUT /databases/:key/restore; POST /databases/:key/copies {from, spec} |
 * | upgradeDatabase, goBack, forgetBefore | POST /databases/:key/upgrade {version}, /databases/:key/back; DELETE /databases/:key/before |
 * | migrateDatabase | POST /databases/:key/migrations {files, timeoutMs} |
 * | takeLog, stopLog, logSegment, forgetLog | POST, DELETE /databases/:key/log-stock; GET …/log-segment?name=; POST …/forgotten-log |
 * | databaseUsers, putDatabaseUser, removeDatabaseUser | GET, PUT /databases/:key/users; POST …/removed-users |
 *
 * Errors are `{"error": {"code", "message", "details"}}`.
 */
export class HostClient {
  readonly address: HostAddress;
  readonly #agent: Agent;

  constructor(address: HostAddress) {
    this.address = address;
    this.#agent = new Agent({
      connections: 256,
      headersTimeout: 0,
      bodyTimeout: 0,
      keepAliveTimeout: 10_000,
    });
  }

  close(): Promise<void> {
    return this.#agent.destroy();
  }

  doctor = (signal?: AbortSignal) => this.#json("GET", "/doctor", Doctor, undefined, signal);

  pool = (signal?: AbortSignal) => this.#json("GET", "/pool", PoolReport, undefined, signal);

  /** Resolves once the fence outlives the host's end. */
  fence = (fence: FenceRequest, signal?: AbortSignal) =>
    this.#json("POST", "/fences", FenceReport, fence, signal);
  /**
   * A unix socket of this machine that leads to a port in the box, for a program that cannot speak CONNECT.
   * The same call again opens it again if it is gone.
   */
  door = (boxKey: string, port: number, signal?: AbortSignal) =>
    this.#json("POST", "/doors", Door, { boxKey, port }, signal);
  /** Asked by an edge that the control plane does not answer: its lease goes on with this answer. */
  standing = (edge: string, applied: number, signal?: AbortSignal) =>
    this.#json(
      "GET",
      `/fences?edge=${encodeURIComponent(edge)}&applied=${applied}`,
      Standing,
      undefined,
      signal,
    );

  /** Resolves when the guest answered, or throws with why not. The same spec again returns the same box. */
  putBox = (key: string, spec: BoxSpec, signal?: AbortSignal) =>
    this.#json("PUT", `/boxes/${key}`, Box, spec, signal);
  box = (key: string, signal?: AbortSignal) => this.#jsonOrNull("GET", `/boxes/${key}`, Box, signal);
  boxes = (signal?: AbortSignal) => this.#json("GET", "/boxes", Box.array(), undefined, signal);
  /** Resolves once processes, mounts, cgroups and folders are gone, also if they already were. */
  deleteBox = (key: string, signal?: AbortSignal) => this.#void("DELETE", `/boxes/${key}`, undefined, signal);
  patchBox = (key: string, patch: BoxPatch, signal?: AbortSignal) =>
    this.#json("PATCH", `/boxes/${key}`, Box, patch, signal);
  pause = (key: string, signal?: AbortSignal) => this.#json("POST", `/boxes/${key}/pause`, Box, {}, signal);
  resume = (key: string, signal?: AbortSignal) => this.#json("POST", `/boxes/${key}/resume`, Box, {}, signal);
  stats = (key: string, signal?: AbortSignal) =>
    this.#jsonOrNull("GET", `/boxes/${key}/stats`, BoxStats, signal);
  /** Cheaper than `stats`: to compare before and after something that may have run out of memory. */
  oom = (key: string, signal?: AbortSignal) =>
    this.#jsonOrNull("GET", `/boxes/${key}/oom`, OomReport, signal);
  /** The newest attempts to connect to the outside, at most 500. */
  egress = (key: string, signal?: AbortSignal) =>
    this.#jsonOrNull("GET", `/boxes/${key}/egress`, EgressAttempt.array(), signal);

  snapshots = (signal?: AbortSignal) =>
    this.#json("GET", "/snapshots", SnapshotInfo.array(), undefined, signal);
  putSnapshot = (snapshotKey: string, boxKey: string, signal?: AbortSignal) =>
    this.#json("PUT", `/snapshots/${snapshotKey}`, SnapshotInfo, { boxKey }, signal);
  deleteSnapshot = (snapshotKey: string, signal?: AbortSignal) =>
    this.#void("DELETE", `/snapshots/${snapshotKey}`, undefined, signal);

  freeze = (key: string, body: { path?: string; exclude?: string[] }, signal?: AbortSignal) =>
    this.#json("POST", `/boxes/${key}/freeze`, Frozen, body, signal);
  /** @throws HostError `NOT_FOUND` when the host does not have the digest, `CONFLICT` when the folder is there */
  fill = (key: string, body: FillRequest, signal?: AbortSignal) =>
    this.#void("POST", `/boxes/${key}/fill`, body, signal);
  /** @throws HostError `INVALID` with reason `DIGEST_MISMATCH` */
  putChunk = (digest: string, content: Buffer, signal?: AbortSignal) =>
    this.#void("POST", "/chunks", { digest, base64: content.toString("base64") }, signal);
  /** @throws HostError `INVALID` with reason `CHUNKS_MISSING` (and `missing`) or `DIGEST_MISMATCH` */
  assembleChunks = (chunks: readonly string[], digest: string, signal?: AbortSignal) =>
    this.#json("POST", "/assembled-chunks", Assembled, { chunks, digest }, signal);
  /** Removes artifacts that nothing in `keep` leads to and that no box of the host was made from. */
  collectGarbage = (keep: readonly string[], signal?: AbortSignal) =>
    this.#json("POST", "/collected-artifacts", CollectedReport, { keep }, signal);
  removeChunks = (chunks: readonly string[], signal?: AbortSignal) =>
    this.#void("POST", "/removed-chunks", { chunks }, signal);
  bundle = (key: string, body: BundleRequest, signal?: AbortSignal) =>
    this.#json("POST", `/boxes/${key}/bundle`, Bundled, body, signal);
  /** Reads every byte of it. @throws HostError `NOT_FOUND` */
  checkBundle = (digest: string, signal?: AbortSignal) =>
    this.#json("POST", "/bundle-check", BundleCheck, { digest }, signal);
  /** @throws HostError `NOT_FOUND`, `INVALID` for a bundle that is damaged or lists no files */
  diffBundles = (from: string, to: string, signal?: AbortSignal) =>
    this.#json("POST", "/bundle-diff", BundleDiff, { from, to }, signal);
  /** @throws HostError `NOT_FOUND`, `INVALID` */
  bundleSbom = (digest: string, signal?: AbortSignal) =>
    this.#json("POST", "/bundle-sbom", BundleSbom, { digest }, signal);

  images = (signal?: AbortSignal) => this.#json("GET", "/images", ImageReport, undefined, signal);
  /** @throws HostError `CONFLICT` while a box has it as its root */
  removeImage = (digest: string, signal?: AbortSignal) =>
    this.#void("DELETE", `/images/${digest.replace(":", "-").slice(0, 63)}`, undefined, signal);
  /** Queues it and returns at once; the same key again returns the same build. */
  putImageBuild = (key: string, spec: ImageBuildSpec, signal?: AbortSignal) =>
    this.#json("PUT", `/image-builds/${key}`, ImageBuild, spec, signal);
  imageBuild = (key: string, signal?: AbortSignal) =>
    this.#jsonOrNull("GET", `/image-builds/${key}`, ImageBuild, signal);
  imageBuilds = (signal?: AbortSignal) =>
    this.#json("GET", "/image-builds", ImageBuild.array(), undefined, signal);
  /** Lines after number `after`, at most `limit`. */
  imageBuildLogs = async (key: string, after: number, limit: number, signal?: AbortSignal) => {
    const path = `/image-builds/${key}/logs?after=${after}&limit=${limit}`;
    return (await this.#json("GET", path, z.object({ lines: ImageLogLine.array() }), undefined, signal))
      .lines;
  };
  /** Resolves once nothing of it runs. */
  cancelImageBuild = (key: string, signal?: AbortSignal) =>
    this.#json("POST", `/image-builds/${key}/cancel`, ImageBuild, {}, signal);
  /** An image for a build with source `upload`, kept for a day. */
  putImageUpload = async (key: string, body: Readable, signal?: AbortSignal): Promise<ImageUpload> => {
    const headers = { "content-type": "application/octet-stream" };
    const response = await this.#request("PUT", `/image-uploads/${key}`, headers, body, signal);
    if (response.statusCode < 300) return ImageUpload.parse(await response.body.json());
    throw toHostError(response.statusCode, await response.body.text());
  };
  deleteImageUpload = (key: string, signal?: AbortSignal) =>
    this.#void("DELETE", `/image-uploads/${key}`, undefined, signal);
  deleteImageBuild = (key: string, signal?: AbortSignal) =>
    this.#void("DELETE", `/image-builds/${key}`, undefined, signal);

  putDatabase = (key: string, spec: DatabaseSpec, signal?: AbortSignal) =>
    this.#json("PUT", `/databases/${key}`, HostedDatabase, spec, signal);
  database = (key: string, signal?: AbortSignal) =>
    this.#jsonOrNull("GET", `/databases/${key}`, HostedDatabase, signal);
  databases = (signal?: AbortSignal) =>
    this.#json("GET", "/databases", HostedDatabase.array(), undefined, signal);
  deleteDatabase = (key: string, signal?: AbortSignal) =>
    this.#void("DELETE", `/databases/${key}`, undefined, signal);
  databaseAction = (key: string, action: "start" | "stop" | "restart", signal?: AbortSignal) =>
    this.#json("POST", `/databases/${key}/${action}`, HostedDatabase, {}, signal);
  credentials = (key: string, signal?: AbortSignal) =>
    this.#json("GET", `/databases/${key}/credentials`, DatabaseCredentials, undefined, signal);
  rotate = (key: string, signal?: AbortSignal) =>
    this.#json("POST", `/databases/${key}/rotate`, DatabaseCredentials, {}, signal);
  /** What was handed out before the rotation is refused from now on, and its sessions end. */
  endRotation = (key: string, signal?: AbortSignal) =>
    this.#json("POST", `/databases/${key}/end-rotation`, HostedDatabase, {}, signal);
  databaseUsers = (key: string, signal?: AbortSignal) =>
    this.#json("GET", `/databases/${key}/users`, DatabaseUser.array(), undefined, signal);
  putDatabaseUser = (key: string, name: string, access: DatabaseUser["access"], signal?: AbortSignal) =>
    this.#json("PUT", `/databases/${key}/users`, DatabaseCredentials, { name, access }, signal);
  removeDatabaseUser = (key: string, name: string, signal?: AbortSignal) =>
    this.#void("POST", `/databases/${key}/removed-users`, { name }, signal);
  /** A running database's whole content as frames; cut off before the end when it fails in the middle. */
  backup = async (key: string, signal?: AbortSignal): Promise<Readable> => {
    const response = await this.#send("POST", `/databases/${key}/backup`, {}, signal);
    return response.body;
  };
  /** A new database of such a stream. @throws HostError `INVALID` when it is not whole */
  restore = async (
    key: string,
    wanted: RestoreSpec,
    content: Readable,
    signal?: AbortSignal,
  ): Promise<HostedDatabase> => {
    const headers = { "content-type": "application/octet-stream", "x-restore": JSON.stringify(wanted) };
    const response = await this.#request("PUT", `/databases/${key}/restore`, headers, content, signal);
    if (response.statusCode >= 300) throw toHostError(response.statusCode, await response.body.text());
    return HostedDatabase.parse(await response.body.json());
  };
  /** Ends the segment that is written, and lists what is to be stored elsewhere. */
  takeLog = (key: string, signal?: AbortSignal) =>
    this.#json("POST", `/databases/${key}/log-stock`, LogStock, {}, signal);
  /** A listed segment, 16 MiB. @throws HostError `NOT_FOUND` */
  logSegment = async (key: string, name: string, signal?: AbortSignal): Promise<Buffer> => {
    const path = `/databases/${key}/log-segment?name=${encodeURIComponent(name)}`;
    const response = await this.#send("GET", path, undefined, signal);
    return Buffer.from(await response.body.arrayBuffer());
  };
  /** Once they are stored; `gap` is forgotten likewise. */
  forgetLog = (key: string, names: readonly string[], signal?: AbortSignal) =>
    this.#void("POST", `/databases/${key}/forgotten-log`, { names }, signal);
  /** The log is kept no more. */
  stopLog = (key: string, signal?: AbortSignal) =>
    this.#void("DELETE", `/databases/${key}/log-stock`, undefined, signal);
  /** A new database with the content that another one has now. */
  copyDatabase = (key: string, from: string, spec: DatabaseSpec, signal?: AbortSignal) =>
    this.#json("POST", `/databases/${key}/copies`, HostedDatabase, { from, spec }, signal);
  /** A newer server in its place, once its content was carried and compared; the one before waits. */
  upgradeDatabase = (key: string, version: string, signal?: AbortSignal) =>
    this.#json("POST", `/databases/${key}/upgrade`, HostedDatabase, { version }, signal);
  /** The server before the upgrade again, without what was written since. */
  goBack = (key: string, signal?: AbortSignal) =>
    this.#json("POST", `/databases/${key}/back`, HostedDatabase, {}, signal);
  /** There is no way back any more. */
  forgetBefore = (key: string, signal?: AbortSignal) =>
    this.#void("DELETE", `/databases/${key}/before`, undefined, signal);
  /** Each in a transaction of its own, once; a repeat does what is left. */
  migrateDatabase = (key: string, migrations: MigrationsSpec, signal?: AbortSignal) =>
    this.#json("POST", `/databases/${key}/migrations`, MigrationsDone, migrations, signal);
  probe = (key: string, signal?: AbortSignal) =>
    this.#json("POST", `/databases/${key}/probe`, LoginProof, {}, signal);
  /** A statement that fails is an answer. */
  queryDatabase = (key: string, query: z.input<typeof QueryRequest>, signal?: AbortSignal) =>
    this.#json("POST", `/databases/${key}/query`, QueryAnswer, query, signal);
  /** Bytes to the database's server and back. */
  dialDatabase = (key: string, signal?: AbortSignal) => dialBoxPort(this.address, key, "server", signal);
  databaseStats = (key: string, signal?: AbortSignal) =>
    this.#json("GET", `/databases/${key}/stats`, DatabaseStats, undefined, signal);
  databaseLogs = async (key: string, lines: number, signal?: AbortSignal): Promise<string[]> => {
    const response = await this.#send("GET", `/databases/${key}/logs?lines=${lines}`, undefined, signal);
    return ((await response.body.json()) as { lines: string[] }).lines;
  };

  /** A request to the guest agent; the caller reads the body. The status is the guest's own. */
  async guest(
    key: string,
    method: Dispatcher.HttpMethod,
    path: string,
    options: {
      headers?: Record<string, string>;
      body?: Dispatcher.DispatchOptions["body"];
      signal?: AbortSignal;
    } = {},
  ): Promise<Dispatcher.ResponseData> {
    return this.#request(
      method,
      `/boxes/${key}/guest${path}`,
      options.headers ?? {},
      options.body,
      options.signal,
    );
  }

  /** Opens a raw byte stream to `port` in the box. Rejects with a HostError when nothing accepts there. */
  dialPort(key: string, port: number, signal?: AbortSignal): Promise<Socket> {
    return dialBoxPort(this.address, key, port, signal);
  }

  async #json<T extends z.ZodType>(
    method: Dispatcher.HttpMethod,
    path: string,
    shape: T,
    body?: unknown,
    signal?: AbortSignal,
  ): Promise<z.output<T>> {
    const response = await this.#send(method, path, body, signal);
    return shape.parse(await response.body.json());
  }

  async #jsonOrNull<T extends z.ZodType>(
    method: Dispatcher.HttpMethod,
    path: string,
    shape: T,
    signal?: AbortSignal,
  ): Promise<z.output<T> | null> {
    try {
      return await this.#json(method, path, shape, undefined, signal);
    } catch (error) {
      if (error instanceof HostError && error.code === "NOT_FOUND") return null;
      throw error;
    }
  }

  async #void(
    method: Dispatcher.HttpMethod,
    path: string,
    body?: unknown,
    signal?: AbortSignal,
  ): Promise<void> {
    const response = await this.#send(method, path, body, signal);
    await response.body.dump();
  }

  async #send(
    method: Dispatcher.HttpMethod,
    path: string,
    body: unknown,
    signal?: AbortSignal,
  ): Promise<Dispatcher.ResponseData> {
    const headers: Record<string, string> = body === undefined ? {} : { "content-type": "application/json" };
    const response = await this.#request(
      method,
      path,
      headers,
      body === undefined ? undefined : JSON.stringify(body),
      signal,
    );
    if (response.statusCode < 300) return response;
    const text = await response.body.text();
    throw toHostError(response.statusCode, text);
  }

  async #request(
    method: Dispatcher.HttpMethod,
    path: string,
    headers: Record<string, string>,
    body: Dispatcher.DispatchOptions["body"] | undefined,
    signal?: AbortSignal,
  ): Promise<Dispatcher.ResponseData> {
    try {
      return await request(this.address.url + path, {
        method,
        headers: { ...headers, authorization: `Bearer ${this.address.token}` },
        body: body ?? null,
        dispatcher: this.#agent,
        signal: signal ?? null,
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new HostError("UNREACHABLE", 0, "The host did not answer.", {}, { cause: error });
    }
  }
}

function toHostError(status: number, text: string): HostError {
  try {
    const { error } = JSON.parse(text) as {
      error: { code: string; message: string; details?: Record<string, unknown> };
    };
    return new HostError(error.code, status, error.message, error.details ?? {});
  } catch (cause) {
    return new HostError(
      "INTERNAL",
      status,
      `The host answered ${status} without an explanation.`,
      {},
      { cause },
    );
  }
}

/**
 * A port in a box that accepts from outside; with `any-` also one that accepts only inside; or its agent. `server`: the
 * key is a database's, and the bytes go to its server.
 */
export type BoxDoor = number | `any-${number}` | "agent" | "server";

/**
 * `CONNECT <boxKey>:<port>` at the host. The edge uses it as the connector of its upstream pools.
 *
 * @throws HostError `NOT_FOUND`, `BOX_PAUSED`, `PORT_REFUSED` or `UNREACHABLE`
 */
export function dialBoxPort(
  host: HostAddress,
  boxKey: string,
  port: BoxDoor,
  signal?: AbortSignal,
): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const { hostname, port: hostPort } = new URL(host.url);
    const socket = connect({ host: hostname, port: Number(hostPort), signal });
    let head = Buffer.alloc(0);
    const fail = (error: Error) => {
      socket.destroy();
      reject(error);
    };
    const onError = (cause: Error) =>
      fail(new HostError("UNREACHABLE", 0, "The host did not answer.", {}, { cause }));
    const onClose = () => fail(new HostError("UNREACHABLE", 0, "The host closed the connection."));
    const onData = (chunk: Buffer) => {
      head = Buffer.concat([head, chunk]);
      const end = head.indexOf("\r\n\r\n");
      if (end < 0) {
        if (head.length > 16_384) onClose();
        return;
      }
      const status = Number(head.subarray(9, 12).toString("latin1"));
      const rest = head.subarray(end + 4);
      if (status !== 200) {
        fail(toHostError(status, rest.toString("utf8")));
        return;
      }
      socket.off("data", onData).off("error", onError).off("close", onClose);
      socket.pause();
      if (rest.length > 0) socket.unshift(rest);
      resolve(socket);
    };
    socket.on("data", onData).on("error", onError).on("close", onClose);
    socket.write(
      `CONNECT ${boxKey}:${port} HTTP/1.1\r\nhost: ${boxKey}:${port}\r\nauthorization: Bearer ${host.token}\r\n\r\n`,
    );
  });
}
