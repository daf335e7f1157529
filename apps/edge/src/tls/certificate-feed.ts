import { sleepUntil, type Log } from "@platform/daemon";
import { CertificateUpdate } from "@platform/edge-api";
import { request, type Dispatcher } from "undici";
import type { AcmeChallenges } from "./acme-challenges.ts";
import type { IssuedCertificates } from "./issued-certificates.ts";

const WAIT_MS = 25_000;
const ANSWER_MARGIN_MS = 10_000;
const RETRY_MIN_MS = 100;
const RETRY_MAX_MS = 5_000;

export interface CertificateFeedOptions {
  readonly controlPlaneUrl: string;
  readonly edgeId: string;
  readonly token: string;
  readonly issued: IssuedCertificates;
  readonly challenges: AcmeChallenges;
  readonly dispatcher: Dispatcher;
  readonly log: Log;
}

/**
 * Keeps certificates and challenges up to date by a long poll. Asking with `applied=V` acknowledges V: the
 * certificates of V are served and on disk, its challenges are answered.
 */
export class CertificateFeed {
  readonly #options: CertificateFeedOptions;
  readonly #stop = new AbortController();
  #loop: Promise<void> | null = null;
  #failures = 0;
  #isSynchronised = false;

  constructor(options: CertificateFeedOptions) {
    this.#options = options;
  }

  start(): void {
    this.#loop ??= this.#run();
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#loop;
  }

  async #run(): Promise<void> {
    const { issued, challenges, log } = this.#options;
    while (!this.#stop.signal.aborted) {
      try {
        const update = await this.#poll();
        this.#isSynchronised = true;
        this.#failures = 0;
        if (!update) continue;
        await challenges.replace(update.challenges);
        await issued.apply(update);
        log.debug({ version: update.version, certificates: issued.size }, "certificates applied");
      } catch (error) {
        if (this.#stop.signal.aborted) return;
        const ceiling = Math.min(RETRY_MAX_MS, RETRY_MIN_MS * 2 ** Math.min(this.#failures++, 10));
        const delayMs = RETRY_MIN_MS + Math.random() * (ceiling - RETRY_MIN_MS);
        log.warn(
          { reason: (error as Error).message, delayMs, serving: issued.version },
          "certificates could not be refreshed; the last known ones stay in force",
        );
        await sleepUntil(Date.now() + delayMs, this.#stop.signal);
      }
    }
  }

  async #poll(): Promise<CertificateUpdate | null> {
    const { controlPlaneUrl, edgeId, token, issued, dispatcher } = this.#options;
    const url = new URL("/internal/edge/certificates", controlPlaneUrl);
    url.searchParams.set("edge", edgeId);
    url.searchParams.set("applied", String(issued.version));
    // The first answer comes at once, so that a start is known to be up to date.
    url.searchParams.set("wait_ms", String(this.#isSynchronised ? WAIT_MS : 0));
    const response = await request(url, {
      headers: { authorization: `Bearer ${token}`, accept: "application/json" },
      dispatcher,
      headersTimeout: WAIT_MS + ANSWER_MARGIN_MS,
      bodyTimeout: WAIT_MS,
      signal: this.#stop.signal,
    });
    if (response.statusCode === 200) return CertificateUpdate.parse(await response.body.json());
    await response.body.dump();
    if (response.statusCode === 204) return null;
    throw new Error(`the control plane answered ${response.statusCode} to the certificate poll`);
  }
}
