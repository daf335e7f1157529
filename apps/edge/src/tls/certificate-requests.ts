import type { Log } from "@platform/daemon";
import { CertificateAnswer, type CertificateEntry } from "@platform/edge-api";
import { request, type Dispatcher } from "undici";

/** Handshakes may wait for an order as long as this. */
const ANSWER_MS = 30_000;
/** Names asked for at once; further ones are refused until one is answered. */
const MAX_ASKING = 64;
const MAX_REFUSALS = 10_000;
const UNREACHABLE_MS = 2_000;

export interface RequestOptions {
  readonly controlPlaneUrl: string;
  readonly token: string;
  readonly dispatcher: Dispatcher;
  readonly log: Log;
}

/** Asks the control plane for certificates of single names, once at a time for each, and not too often. */
export class CertificateRequests {
  readonly #options: RequestOptions;
  readonly #asking = new Map<string, Promise<CertificateEntry | null>>();
  /** Host name → time before which it is not asked for again. */
  readonly #refused = new Map<string, number>();

  constructor(options: RequestOptions) {
    this.#options = options;
  }

  /** @returns null when there is none now */
  ask(hostname: string): Promise<CertificateEntry | null> {
    const known = this.#asking.get(hostname);
    if (known) return known;
    if ((this.#refused.get(hostname) ?? 0) > Date.now() || this.#asking.size >= MAX_ASKING)
      return Promise.resolve(null);
    const asking = this.#ask(hostname)
      .catch((error: unknown) => {
        this.#options.log.warn(
          { hostname, reason: (error as Error).message },
          "no certificate could be asked for",
        );
        this.#refuse(hostname, UNREACHABLE_MS);
        return null;
      })
      .finally(() => this.#asking.delete(hostname));
    this.#asking.set(hostname, asking);
    return asking;
  }

  async #ask(hostname: string): Promise<CertificateEntry | null> {
    const { controlPlaneUrl, token, dispatcher, log } = this.#options;
    const response = await request(new URL("/internal/edge/certificates", controlPlaneUrl), {
      method: "POST",
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
      body: JSON.stringify({ hostname }),
      dispatcher,
      headersTimeout: ANSWER_MS,
      bodyTimeout: ANSWER_MS,
    });
    if (response.statusCode !== 200) {
      await response.body.dump();
      throw new Error(`the control plane answered ${response.statusCode}`);
    }
    const answer = CertificateAnswer.parse(await response.body.json());
    if (answer.status === "issued") return answer.certificate;
    log.info(
      { hostname, reason: answer.reason, retryAfterMs: answer.retryAfterMs },
      "no certificate for a name",
    );
    this.#refuse(hostname, answer.retryAfterMs);
    return null;
  }

  #refuse(hostname: string, forMs: number): void {
    this.#refused.delete(hostname);
    this.#refused.set(hostname, Date.now() + forMs);
    if (this.#refused.size > MAX_REFUSALS) this.#refused.delete(this.#refused.keys().next().value!);
  }
}
