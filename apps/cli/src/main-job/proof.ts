import { CliError, toFailure } from "../failure.ts";
import { formatMs } from "../output.ts";

export interface Proved<T> {
  readonly value: T;
  /** What was seen, in one line. */
  readonly evidence: string;
}

/** One claim did not hold; it was printed already. */
export class ProofFailedError extends Error {
  readonly claim: string;
  constructor(claim: string, cause: unknown) {
    super(`not proved: ${claim}`, { cause });
    this.name = "ProofFailedError";
    this.claim = claim;
  }
}

/** What was expected was not seen. */
export function refute(seen: string, remedy: string): never {
  throw new CliError("NOT_PROVED", seen, remedy);
}

/** Prints one line for each claim: ✓ with evidence and time, ✗ with reason and remedy. */
export class Proof {
  readonly #say: (text: string) => void;
  readonly #signal: AbortSignal;
  #count = 0;

  constructor(say: (text: string) => void, signal: AbortSignal) {
    this.#say = say;
    this.#signal = signal;
  }

  get count(): number {
    return this.#count;
  }

  /** @throws ProofFailedError when `look` throws, or before it when the run was ended */
  async that<T>(claim: string, look: () => Promise<Proved<T>>): Promise<T> {
    const startedAt = performance.now();
    try {
      this.#signal.throwIfAborted();
      const { value, evidence } = await look();
      this.#count++;
      this.#say(`✓ ${claim} — ${evidence} (${formatMs(performance.now() - startedAt)})`);
      return value;
    } catch (error) {
      if (this.#signal.aborted) {
        this.#say(`– ${claim}: ended before it was proved`);
        throw new ProofFailedError(claim, error);
      }
      const failure = toFailure(error);
      this.#say(`✗ ${claim} (${formatMs(performance.now() - startedAt)})`);
      this.#say(`  ${failure.code}: ${failure.message}`);
      for (const reason of failure.why) this.#say(`  why: ${reason}`);
      this.#say(`  do:  ${failure.remedy}`);
      if (failure.requestId) this.#say(`  request: ${failure.requestId}`);
      throw new ProofFailedError(claim, error);
    }
  }
}
