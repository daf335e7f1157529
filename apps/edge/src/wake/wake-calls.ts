import type { Log } from "@platform/daemon";
import { WakeAnswer } from "@platform/edge-api";
import { request, type Dispatcher } from "undici";

const EVERY_MS = 2_000;
const MAX_HOSTNAMES = 10_000;
const ANSWER_MS = 10_000;

export interface WakeOptions {
  readonly controlPlaneUrl: string;
  readonly token: string;
  readonly dispatcher: Dispatcher;
  readonly log: Log;
}

/** Asks the control plane to start what sleeps behind a host name, at most once per 2 s and name. */
export class WakeCalls {
  readonly #options: WakeOptions;
  /** Host name → when it was last asked for, monotonic milliseconds; oldest first. */
  readonly #asked = new Map<string, number>();
  /** Host name → why it could not be asked for the last time, in a visitor's words. */
  readonly #failures = new Map<string, string>();

  /** Host names whose apps may not start now. */
  readonly #refused = new Set<string>();

  constructor(options: WakeOptions) {
    this.#options = options;
  }

  /** Null: the last call succeeded, or there was none. */
  failureOf(hostname: string): string | null {
    return this.#failures.get(hostname) ?? null;
  }

  /** The last call was answered that its owner's limits are reached. */
  isOverQuota(hostname: string): boolean {
    return this.#refused.has(hostname);
  }

  ask(hostname: string): void {
    const now = performance.now();
    const last = this.#asked.get(hostname);
    if (last !== undefined && now - last < EVERY_MS) return;
    this.#asked.delete(hostname);
    this.#asked.set(hostname, now);
    if (this.#asked.size > MAX_HOSTNAMES) this.#asked.delete(this.#asked.keys().next().value!);
    const done = this.#post(hostname).then(() => this.#failures.delete(hostname));
    done.catch((error: Error) => {
      this.#failures.delete(hostname);
      this.#failures.set(hostname, "The service that starts apps could not be asked.");
      if (this.#failures.size > MAX_HOSTNAMES) this.#failures.delete(this.#failures.keys().next().value!);
      // The visitor's page reloads and asks again.
      this.#options.log.warn(
        { hostname, reason: error.message },
        "the control plane could not be asked to wake an app",
      );
    });
  }

  async #post(hostname: string): Promise<void> {
    const { controlPlaneUrl, token, dispatcher } = this.#options;
    const response = await request(new URL("/internal/edge/wake", controlPlaneUrl), {
      method: "POST",
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
      body: JSON.stringify({ hostname }),
      dispatcher,
      signal: AbortSignal.timeout(ANSWER_MS),
    });
    if (response.statusCode >= 300) {
      await response.body.dump();
      throw new Error(`it answered ${response.statusCode}`);
    }
    const { refused } = WakeAnswer.parse(await response.body.json());
    this.#refused.delete(hostname);
    if (refused !== undefined) this.#refused.add(hostname);
    if (this.#refused.size > MAX_HOSTNAMES) this.#refused.delete(this.#refused.values().next().value!);
  }
}
