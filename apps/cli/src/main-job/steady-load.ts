import { setTimeout as delay } from "node:timers/promises";
import { look } from "./probes.ts";

export interface LoadReport {
  readonly requests: number;
  readonly failures: readonly string[];
  /** Slowest answer, milliseconds. */
  readonly slowestMs: number;
}

/** Requests one URL without a pause on a few connections, and counts every answer that is not 200. */
export class SteadyLoad {
  readonly #url: string;
  readonly #onAnswer: (text: string) => void;
  readonly #workers: Promise<void>[];
  readonly #failures: string[] = [];
  #isOn = true;
  #requests = 0;
  #slowestMs = 0;

  constructor(url: string, onAnswer: (text: string) => void = () => undefined, connections = 4) {
    this.#url = url;
    this.#onAnswer = onAnswer;
    this.#workers = Array.from({ length: connections }, () => this.#work());
  }

  /** Resolves after this many more requests, or when the time is over. */
  async untilFurther(requests: number, timeoutMs: number): Promise<void> {
    const enough = this.#requests + requests;
    const endsAt = performance.now() + timeoutMs;
    while (this.#requests < enough && performance.now() < endsAt) await delay(10);
  }

  async stop(): Promise<LoadReport> {
    this.#isOn = false;
    await Promise.all(this.#workers);
    return { requests: this.#requests, failures: this.#failures, slowestMs: this.#slowestMs };
  }

  async #work(): Promise<void> {
    while (this.#isOn) {
      this.#requests++;
      try {
        const seen = await look(this.#url, { timeoutMs: 10_000 });
        this.#slowestMs = Math.max(this.#slowestMs, seen.ms);
        if (seen.status === 200) this.#onAnswer(seen.text);
        else this.#failures.push(`status ${seen.status}`);
      } catch (error) {
        this.#failures.push(error instanceof Error ? error.message : String(error));
      }
      // The gateway is what is measured, not how fast this process can ask.
      await delay(5);
    }
  }
}
