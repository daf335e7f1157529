import { spellings } from "@platform/bundle";

/** Shorter values, and parts of values, would mask ordinary text. */
const shortestMasked = 6;
const shortestPart = 12;
/** Characters of a line without an end, before a part of it goes on its way. */
const longestRest = 64 * 1024;

export interface Masking {
  /** Replaces every secret, plain or encoded, by `[masked]`. */
  mask(text: string): string;
  /** Characters of the longest text that is masked. */
  readonly longest: number;
}

/** A key of several lines is printed line by line. */
const linesOf = (value: string) => value.split(/\r?\n/).filter((line) => line.length >= shortestPart);

export function createMasking(secrets: readonly string[]): Masking {
  const texts = new Set<string>();
  for (const secret of secrets) {
    if (secret.length < shortestMasked) continue;
    texts.add(secret);
    if (secret.includes("\n")) for (const line of linesOf(secret)) texts.add(line);
    for (const [, text] of spellings(secret)) if (text.length >= shortestPart) texts.add(text);
  }
  // The longest first: one may be a part of another.
  const sorted = [...texts].sort((a, b) => b.length - a.length);
  return {
    mask: (text) => sorted.reduce((masked, secret) => masked.replaceAll(secret, "[masked]"), text),
    longest: sorted[0]?.length ?? 0,
  };
}

/**
 * Makes lines of chunks that may end anywhere, so that a secret cut in two is seen whole. A line without an end
 * is given on in parts; the end of a part is kept back, where a secret may have begun.
 */
export class MaskedLines {
  readonly #masking: Masking;
  readonly #line: (line: string) => void;
  #rest = "";

  constructor(masking: Masking, line: (line: string) => void) {
    this.#masking = masking;
    this.#line = line;
  }

  push(chunk: string): void {
    const lines = (this.#rest + chunk).split(/\r?\n/);
    this.#rest = lines.pop() ?? "";
    for (const line of lines) this.#line(this.#masking.mask(line));
    const keep = Math.max(this.#masking.longest, 1);
    if (this.#rest.length <= longestRest + keep) return;
    const masked = this.#masking.mask(this.#rest);
    if (masked.length > keep) this.#line(masked.slice(0, -keep));
    this.#rest = masked.slice(-keep);
  }

  end(): void {
    if (this.#rest !== "") this.#line(this.#masking.mask(this.#rest));
    this.#rest = "";
  }
}
