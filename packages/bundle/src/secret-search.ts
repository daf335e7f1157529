/** A value that must not be in a bundle, under the name by which people know it. */
export interface KnownSecret {
  readonly name: string;
  readonly value: string;
}

export type SecretEncoding = "plain" | "url" | "json" | "html" | "hex" | "base64" | "base64url" | "utf-16";

/** Where a secret stands; never what it is. */
export interface SecretFinding {
  readonly file: string;
  /** From 1. In a binary file: one more than the newline bytes before it. */
  readonly line: number;
  readonly name: string;
  readonly encoding: SecretEncoding;
  /** The line up to the secret, which is masked, cut to some characters. */
  readonly excerpt: string;
}

/** Characters; a shorter value stands in too many files that have nothing to do with it. */
export const shortestSecret = 8;
/** Of a longer pattern only this many bytes are looked for, from its middle: its ends may be common text. */
const longestPattern = 1024;
const mostFindings = 20;
const excerptBytes = 48;
/** Bytes of which the shortest pattern has at least this many; the search skips by nearly as much. */
const window = 8;

interface Pattern {
  readonly bytes: Buffer;
  readonly name: string;
  readonly encoding: SecretEncoding;
}

/**
 * The part of a value's base64 text that does not depend on what stands before or after it.
 *
 * @param offset bytes before the value in its group of three
 */
function base64Core(value: Buffer, offset: 0 | 1 | 2): string {
  const text = Buffer.concat([Buffer.alloc(offset), value]).toString("base64");
  return text.slice(Math.ceil((offset * 8) / 6), Math.floor(((offset + value.length) * 8) / 6));
}

const escapeNonAscii = (text: string) =>
  text.replace(/[\u0080-\uffff]/g, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`);
const strictUrl = (text: string) =>
  text.replace(/[!'()*]/g, (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`);

const entities: Readonly<Record<string, string>> = {
  ...{ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" },
};
const escapeHtml = (text: string) => text.replace(/[&<>"']/g, (char) => entities[char]!);

/** Every way in which one value may stand in text. */
export function spellings(value: string): [SecretEncoding, string][] {
  const bytes = Buffer.from(value);
  const cores = ([0, 1, 2] as const).map((offset) => base64Core(bytes, offset));
  // Without the replacement, a lone surrogate would throw.
  const url = encodeURIComponent(bytes.toString());
  const json = JSON.stringify(value).slice(1, -1);
  return [
    ["plain", value],
    ...[url, strictUrl(url), url.replaceAll("%20", "+")].flatMap((text): [SecretEncoding, string][] => [
      ["url", text],
      ["url", text.replace(/%../g, (hex) => hex.toLowerCase())],
    ]),
    ["json", json],
    ["json", escapeNonAscii(json)],
    ["json", json.replaceAll("/", "\\/")],
    // A source within a source map: text of a program, and that as JSON.
    ["json", JSON.stringify(json).slice(1, -1)],
    ["html", escapeHtml(value)],
    ["hex", bytes.toString("hex")],
    ["hex", bytes.toString("hex").toUpperCase()],
    ...cores.map((core): [SecretEncoding, string] => ["base64", core]),
    ...cores.map((core): [SecretEncoding, string] => [
      "base64url",
      core.replaceAll("+", "-").replaceAll("/", "_"),
    ]),
  ];
}

function middleOf(bytes: Buffer): Buffer {
  if (bytes.length <= longestPattern) return bytes;
  const from = (bytes.length - longestPattern) >> 1;
  return bytes.subarray(from, from + longestPattern);
}

function patternsOf(secrets: readonly KnownSecret[]): Pattern[] {
  const found = new Map<string, Pattern>();
  for (const { name, value } of secrets) {
    if (value.length < shortestSecret) continue;
    const wide = Buffer.from(value, "utf16le");
    const all: [SecretEncoding, Buffer][] = [
      ...spellings(value).map(([encoding, text]): [SecretEncoding, Buffer] => [encoding, Buffer.from(text)]),
      ["utf-16", wide],
      ["utf-16", Buffer.from(wide).swap16()],
    ];
    for (const [encoding, whole] of all) {
      const bytes = middleOf(whole);
      const key = bytes.toString("latin1");
      // The first spelling names the finding: most are plain in all encodings.
      if (!found.has(key)) found.set(key, { bytes, name, encoding });
    }
  }
  return [...found.values()];
}

/**
 * Looks for all spellings of all values at once, in one pass over streamed files (Wu and Manber's
 * search: most bytes are skipped unread).
 *
 * @see https://webglimpse.net/pubs/TR94-17.pdf
 */
export class SecretSearch {
  readonly findings: SecretFinding[] = [];
  readonly #patterns: readonly Pattern[];
  readonly #longest: number;
  /** By two bytes: how far the window may move when it ends with them. */
  readonly #shifts = new Uint8Array(65_536).fill(window - 1);
  readonly #endingWith = new Map<number, Pattern[]>();

  /** @param secrets those under eight characters are not looked for */
  constructor(secrets: readonly KnownSecret[]) {
    this.#patterns = patternsOf(secrets);
    this.#longest = this.#patterns.reduce((most, { bytes }) => Math.max(most, bytes.length), 0);
    for (const pattern of this.#patterns) {
      const { bytes } = pattern;
      for (let end = 1; end < window; end++) {
        const pair = (bytes[end - 1]! << 8) | bytes[end]!;
        this.#shifts[pair] = Math.min(this.#shifts[pair]!, window - 1 - end);
      }
      const last = (bytes[window - 2]! << 8) | bytes[window - 1]!;
      this.#endingWith.set(last, [...(this.#endingWith.get(last) ?? []), pattern]);
    }
  }

  get isFull(): boolean {
    return this.findings.length >= mostFindings;
  }

  /** @returns to be called with each chunk of the file, in order */
  file(path: string): (chunk: Buffer) => void {
    if (this.#patterns.length === 0) return () => undefined;
    let tail = Buffer.alloc(0);
    let linesBefore = 0;
    let lastLine = 0;
    return (chunk) => {
      if (this.isFull) return;
      const text = tail.length === 0 ? chunk : Buffer.concat([tail, chunk]);
      for (const { at, pattern } of this.#matches(text, tail.length)) {
        const line = linesBefore + newlines(text, at) + 1;
        // The first of a line only: what stands before it holds no other secret.
        if (line === lastLine || this.isFull) continue;
        lastLine = line;
        const { name, encoding } = pattern;
        this.findings.push({ file: path, line, name, encoding, excerpt: excerpt(text, at, name) });
      }
      const keep = Math.max(0, text.length - this.#longest - excerptBytes);
      linesBefore += newlines(text, keep);
      tail = Buffer.from(text.subarray(keep));
    };
  }

  /** Matches that end after `from`, by where they begin. */
  #matches(text: Buffer, from: number): { at: number; pattern: Pattern }[] {
    const found: { at: number; pattern: Pattern }[] = [];
    for (let end = window - 1; end < text.length;) {
      const pair = (text[end - 1]! << 8) | text[end]!;
      const shift = this.#shifts[pair]!;
      if (shift > 0) {
        end += shift;
        continue;
      }
      const at = end - window + 1;
      for (const pattern of this.#endingWith.get(pair) ?? []) {
        const stop = at + pattern.bytes.length;
        if (stop <= from || stop > text.length) continue;
        if (pattern.bytes.compare(text, at, stop) === 0) found.push({ at, pattern });
      }
      end++;
    }
    return found;
  }
}

function newlines(text: Buffer, until: number): number {
  let count = 0;
  for (let at = text.indexOf(10); at >= 0 && at < until; at = text.indexOf(10, at + 1)) count++;
  return count;
}

const isTokenByte = (byte: number) =>
  byte > 0x2a && byte < 0x7f && !'<>;,:"'.includes(String.fromCharCode(byte));

/** Whole tokens are masked: in base64 the letters beside the match tell of the value's ends. */
function excerpt(text: Buffer, at: number, name: string): string {
  let start = at;
  while (start > 0 && at - start < excerptBytes && isTokenByte(text[start - 1]!)) start--;
  const lineStart = text.lastIndexOf(10, Math.max(0, at - 1)) + 1;
  const from = Math.max(lineStart, start - excerptBytes, 0);
  const before = text
    .subarray(Math.min(from, start), start)
    .toString("utf8")
    .replace(/[\u0000-\u001f\ufffd]/g, "");
  return `${before}[${name}]`;
}
