import { setTimeout as delay } from "node:timers/promises";
import type { ReleaseCheck, ReleaseDiff, ReleaseSbom } from "@platform/contract";
import { ApiError } from "./error.ts";
import { isUuid, named } from "./find.ts";
import { newIdempotencyKey, type Query, type Transport } from "./transport.ts";
import type {
  Deployment,
  EnvEntry,
  Provenance,
  Published,
  PublishRequest,
  Release,
  Version,
} from "./types.ts";

const moveTimeoutMs = 600_000;
/** Install, build and preflight may take this long together. */
const publishTimeoutMs = 45 * 60_000;
const uploadRounds = 3;

export interface FileInChunks {
  readonly sizeBytes: number;
  /** Hexadecimal, of the whole file. */
  readonly sha256: string;
  readonly chunks: readonly { readonly sha256: string; readonly size_bytes: number }[];
  read(index: number): Uint8Array;
}

export interface SentUpload {
  readonly id: string;
  readonly sentBytes: number;
}

export interface PromoteRequest {
  readonly canary?: number | { readonly steps: readonly number[]; readonly step_sec?: number };
  readonly at?: string;
}

export interface PromotionView {
  readonly id: string;
  readonly release_id: string;
  readonly kind: string;
  readonly state: string;
  readonly artifact_sha256: string | null;
  readonly run_at: string;
  readonly canary: { readonly step: number; readonly percent: number } | null;
  readonly error: { readonly code: string; readonly message: string } | null;
}

export interface RuntimeInstance {
  readonly id: string;
  readonly release_id: string;
  readonly slot: number;
  readonly state: string;
  readonly restart_count: number;
  readonly verdict: string | null;
}

interface Upload {
  readonly id: string;
  readonly missing: number[];
}

export class Deployments {
  readonly #http: Transport;
  constructor(http: Transport) {
    this.#http = http;
  }

  list = (query?: Query) => this.#http.json<Deployment[]>("GET", "/deployments", { query });
  get = (id: string) => this.#http.json<Deployment>("GET", at(id));
  /** By id, or by slug or name for anything that is no id. @throws ApiError NOT_FOUND, or AMBIGUOUS_NAME */
  find = async (idOrName: string): Promise<Deployment> =>
    isUuid(idOrName) ? this.get(idOrName) : named("deployment", idOrName, await this.list({ limit: 200 }));
  delete = (id: string) => this.#http.json<unknown>("DELETE", at(id));
  versions = (id: string) => this.#http.json<Version[]>("GET", `${at(id)}/versions`);
  releases = (id: string) => this.#http.json<Release[]>("GET", `${at(id)}/releases`);
  release = (id: string, releaseId: string) =>
    this.#http.json<Release>("GET", `${at(id)}/releases/${encodeURIComponent(releaseId)}`);
  provenance = (id: string, releaseId: string) =>
    this.#http.json<Provenance>("GET", `${at(id)}/releases/${encodeURIComponent(releaseId)}/provenance`);
  /** Checks the signature and every stored byte. */
  verifyRelease = (id: string, releaseId: string) =>
    this.#http.json<ReleaseCheck>("GET", `${at(id)}/releases/${encodeURIComponent(releaseId)}/verify`);
  /** CycloneDX. */
  sbom = (id: string, releaseId: string) =>
    this.#http.json<ReleaseSbom>("GET", `${at(id)}/releases/${encodeURIComponent(releaseId)}/sbom`);
  diff = (id: string, from: string, to: string) =>
    this.#http.json<ReleaseDiff>(
      "GET",
      `${at(id)}/releases/${encodeURIComponent(from)}/diff/${encodeURIComponent(to)}`,
    );
  logs = async (id: string, lines = 100, filter: { readonly q?: string } = {}): Promise<string[]> =>
    (await this.#http.json<{ lines: string[] }>("GET", `${at(id)}/logs`, { query: { lines, ...filter } }))
      .lines;
  /** What there is, then what comes, of every instance, until aborted. */
  followLogs = (id: string, lines = 100, filter: { readonly q?: string } = {}, signal?: AbortSignal) =>
    this.#http.events("GET", `${at(id)}/logs`, {
      query: { lines, ...filter },
      ...(signal ? { signal } : {}),
    });

  promote = (
    id: string,
    releaseId: string,
    idempotencyKey = newIdempotencyKey(),
    options: PromoteRequest = {},
  ) =>
    this.#http.json<Deployment>("POST", `${at(id)}/releases/${encodeURIComponent(releaseId)}/promote`, {
      body: options,
      idempotencyKey,
      timeoutMs: moveTimeoutMs,
    });
  /** Without `versionId`: to the version that served before. */
  rollback = (id: string, versionId?: string, idempotencyKey = newIdempotencyKey()) =>
    this.#http.json<Deployment>("POST", `${at(id)}/rollback`, {
      body: versionId === undefined ? {} : { version_id: versionId },
      idempotencyKey,
      timeoutMs: moveTimeoutMs,
    });

  update = (id: string, body: { readonly settings?: Record<string, unknown>; readonly name?: string }) =>
    this.#http.json<Deployment>("PATCH", at(id), { body });
  promotions = (id: string) => this.#http.json<PromotionView[]>("GET", `${at(id)}/promotions`);
  approve = (id: string, promotionId: string, body: { readonly artifact_sha256?: string } = {}) =>
    this.#http.json<PromotionView>(
      "POST",
      `${at(id)}/promotions/${encodeURIComponent(promotionId)}/approve`,
      {
        body,
      },
    );
  cancel = (id: string, promotionId: string) =>
    this.#http.json<PromotionView>("POST", `${at(id)}/promotions/${encodeURIComponent(promotionId)}/cancel`, {
      body: {},
    });
  maintenance = (id: string, mode: "on" | "hold" | "off", message?: string) =>
    this.#http.json<Deployment>("POST", `${at(id)}/maintenance`, {
      body: message === undefined ? { mode } : { mode, message },
    });
  pin = (id: string, releaseId: string, reason?: string) =>
    this.#http.json<Release>("POST", `${at(id)}/releases/${encodeURIComponent(releaseId)}/pin`, {
      body: reason === undefined ? {} : { reason },
    });
  unpin = (id: string, releaseId: string) =>
    this.#http.json<Release>("DELETE", `${at(id)}/releases/${encodeURIComponent(releaseId)}/pin`);
  instances = (id: string) => this.#http.json<RuntimeInstance[]>("GET", `${at(id)}/runtime-instances`);

  create = (body: { readonly name: string }, idempotencyKey = newIdempotencyKey()) =>
    this.#http.json<Deployment>("POST", "/deployments", { body, idempotencyKey });
  publish = (id: string, body: PublishRequest, idempotencyKey = newIdempotencyKey()) =>
    this.#http.json<Published>("POST", `${at(id)}/publish`, {
      body,
      idempotencyKey,
      timeoutMs: publishTimeoutMs,
    });

  /**
   * Sends what the server lacks of a file, cut by the caller. Chunks are sent again until the server has all;
   * one that it has costs nothing, so that a cut-off upload is simply begun anew.
   *
   * @throws ApiError, ConnectionError when a chunk does not arrive after the usual retries
   */
  async upload(id: string, file: FileInChunks): Promise<SentUpload> {
    const body = { size_bytes: file.sizeBytes, sha256: file.sha256, chunks: file.chunks };
    const upload = await this.#http.json<Upload>("POST", `${at(id)}/uploads`, {
      body,
      idempotencyKey: newIdempotencyKey(),
    });
    const path = `${at(id)}/uploads/${encodeURIComponent(upload.id)}`;
    let sentBytes = 0;
    let { missing } = upload;
    for (let round = 0; round < uploadRounds; round++) {
      for (const index of missing) {
        const bytes = file.read(index);
        await this.#http.json<unknown>("PUT", `${path}/chunks/${index}`, { bytes });
        sentBytes += bytes.length;
      }
      try {
        await this.#http.json<Upload>("POST", `${path}/complete`, { body: {}, timeoutMs: publishTimeoutMs });
        return { id: upload.id, sentBytes };
      } catch (error) {
        // Chunks that another upload had brought may be cleared away meanwhile.
        if (!(error instanceof ApiError) || error.code !== "UPLOAD_INCOMPLETE") throw error;
        missing = error.details["missing"] as number[];
      }
    }
    throw new ApiError({
      ...{
        status: 409,
        code: "UPLOAD_INCOMPLETE",
        message: "The server keeps losing chunks. Try again later.",
      },
      details: { missing },
    });
  }

  env = (id: string) => this.#http.json<EnvEntry[]>("GET", `${at(id)}/env`);
  setEnv = (id: string, env: Record<string, string>) =>
    this.#http.json<EnvEntry[]>("POST", `${at(id)}/env`, {
      body: { env },
      idempotencyKey: newIdempotencyKey(),
    });
  deleteEnv = (id: string, name: string) =>
    this.#http.json<unknown>("DELETE", `${at(id)}/env/${encodeURIComponent(name)}`);

  /**
   * Polls until this release serves the deployment's URL.
   *
   * @param options.timeoutMs default 600 000
   * @throws ApiError DEPLOYMENT_FAILED or PROMOTE_TIMEOUT, with the last state in `details`
   */
  async waitUntilActive(
    id: string,
    releaseId: string,
    options: { timeoutMs?: number; everyMs?: number } = {},
  ): Promise<Deployment> {
    const endsAt = performance.now() + (options.timeoutMs ?? moveTimeoutMs);
    for (;;) {
      const deployment = await this.get(id);
      const isUp = deployment.state === "running" || deployment.state === "active";
      if (isUp && deployment.active_release_id === releaseId) return deployment;
      const details = {
        deployment_id: id,
        state: deployment.state,
        active_release_id: deployment.active_release_id,
      };
      if (deployment.state === "failed") {
        const why = deployment.error_message ?? "no reason was given";
        throw new ApiError({
          status: 409,
          code: "DEPLOYMENT_FAILED",
          message: `The deployment failed: ${why}.`,
          details,
        });
      }
      if (performance.now() > endsAt) {
        const message = `The deployment is still ${deployment.state} with another release.`;
        throw new ApiError({ status: 504, code: "PROMOTE_TIMEOUT", message, details });
      }
      await delay(options.everyMs ?? 250);
    }
  }
}

const at = (id: string): string => `/deployments/${encodeURIComponent(id)}`;
