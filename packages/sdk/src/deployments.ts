import { setTimeout as delay } from "node:timers/promises";
import { ApiError } from "./error.ts";
import { isUuid, named } from "./find.ts";
import { newIdempotencyKey, type Query, type Transport } from "./transport.ts";
import type { Deployment, EnvEntry, Provenance, Release, Version } from "./types.ts";

const moveTimeoutMs = 600_000;

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
  logs = async (id: string, lines = 100): Promise<string[]> =>
    (await this.#http.json<{ lines: string[] }>("GET", `${at(id)}/logs`, { query: { lines } })).lines;

  promote = (id: string, releaseId: string, idempotencyKey = newIdempotencyKey()) =>
    this.#http.json<Deployment>("POST", `${at(id)}/releases/${encodeURIComponent(releaseId)}/promote`, {
      body: {},
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
