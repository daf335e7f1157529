import { brotliDecompressSync, gunzipSync, inflateRawSync, inflateSync, zstdDecompressSync } from "node:zlib";

/** A text, and how it was hidden in what it came from. */
export interface Layer {
  readonly text: string;
  /** Such as `base64 in percent`; empty: as it stands there. */
  readonly encoding: string;
}

const MAX_DEPTH = 4;
const MAX_LAYERS = 4_000;
/** Characters that are looked at of one text with all its layers. */
const MAX_CHARACTERS = 32 * 1024 * 1024;
export const MAX_INFLATED_BYTES = 32 * 1024 * 1024;

const limit = { maxOutputLength: MAX_INFLATED_BYTES };
const inflaters = [
  { name: "gzip", starts: "1f8b", open: (bytes: Buffer) => gunzipSync(bytes, limit) },
  { name: "zlib", starts: "78", open: (bytes: Buffer) => inflateSync(bytes, limit) },
  { name: "zstd", starts: "28b52ffd", open: (bytes: Buffer) => zstdDecompressSync(bytes, limit) },
] as const;

/** What a Content-Encoding hides; throws when the bytes are not what it says. */
export function decodeContent(bytes: Buffer, encoding: string): Buffer {
  return encoding
    .split(",")
    .map((name) => name.trim().toLowerCase())
    .filter((name) => name !== "" && name !== "identity")
    .reverse()
    .reduce((left, name) => {
      if (name === "gzip" || name === "x-gzip") return gunzipSync(left, limit);
      if (name === "br") return brotliDecompressSync(left, limit);
      if (name === "zstd") return zstdDecompressSync(left, limit);
      if (name !== "deflate") throw new Error(`unknown content encoding ${name}`);
      return left[0] === 0x78 ? inflateSync(left, limit) : inflateRawSync(left, limit);
    }, bytes);
}

/** Bytes as text: UTF-16 where every second byte is zero, else bytes for characters, so that nothing is lost. */
export function textOf(bytes: Buffer): string {
  const utf8 = bytes.toString("utf8");
  return utf8.includes("\uFFFD") ? bytes.toString("latin1") : utf8;
}

const isReadable = (text: string): boolean => {
  if (text.length < 3) return false;
  let odd = 0;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code < 9 || (code > 13 && code < 32) || code === 0xfffd || code === 127) odd++;
  }
  return odd / text.length < 0.1;
};

const named: Record<string, string> = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", shy: "", zwj: "" };
const point = (digits: string, base: number): string => {
  const code = Number.parseInt(digits, base);
  return code <= 0x10ffff ? String.fromCodePoint(code) : "";
};

/** Ways in which a whole text can be written differently. */
const rewrites: readonly (readonly [name: string, test: RegExp, rewrite: (text: string) => string])[] = [
  [
    "percent",
    /%[0-9a-f]{2}/i,
    (text) =>
      text.replace(/(?:%[0-9a-f]{2})+/gi, (run) => textOf(Buffer.from(run.replaceAll("%", ""), "hex"))),
  ],
  [
    "entities",
    /&(?:#\d+|#x[0-9a-f]+|[a-z]+);?/i,
    (text) =>
      text
        .replace(/&#(\d{1,7});?/g, (_, digits: string) => point(digits, 10))
        .replace(/&#x([0-9a-f]{1,6});?/gi, (_, digits: string) => point(digits, 16))
        .replace(/&([a-z]{2,6});/g, (whole, name: string) => named[name] ?? whole),
  ],
  [
    "escapes",
    /\\(?:x[0-9a-f]{2}|u[0-9a-f{]|[0-9a-f]{2,6} ?)/i,
    (text) =>
      text
        .replace(/\\x([0-9a-f]{2})/gi, (_, digits: string) => point(digits, 16))
        .replace(/\\u\{([0-9a-f]{1,6})\}/gi, (_, digits: string) => point(digits, 16))
        .replace(/\\u([0-9a-f]{4})/gi, (_, digits: string) => point(digits, 16))
        .replace(/\\([0-9a-f]{2,6}) ?/gi, (_, digits: string) => point(digits, 16)),
  ],
  ["joined strings", /["'`]\s*\+\s*["'`]/, (text) => text.replace(/(["'`])\s*\+\s*\1/g, "")],
  [
    "quoted-printable",
    /=(?:[0-9A-F]{2}|\r?\n)/,
    (text) =>
      text.replace(/=\r?\n/g, "").replace(/=([0-9A-F]{2})/g, (_, digits: string) => point(digits, 16)),
  ],
  [
    "invisible signs",
    /[\u00AD\u200B-\u200D\u2060\uFEFF]/,
    (text) => text.replace(/[\u00AD\u200B-\u200D\u2060\uFEFF]/g, ""),
  ],
  [
    "lines",
    /[A-Za-z0-9+/]{60,76}\r?\n[A-Za-z0-9+/]/,
    (text) => text.replace(/([A-Za-z0-9+/]{60,76})\r?\n(?=[A-Za-z0-9+/])/g, "$1"),
  ],
  // UTF-16, read as bytes.
  ["utf-16", /(?:[ -~]\0){3}|(?:\0[ -~]){3}/, (text) => text.replaceAll("\0", "")],
];

/** Runs of text that may be something else in another alphabet. */
function* runs(text: string): Iterable<Layer> {
  for (const [run] of text.matchAll(/[A-Za-z0-9+/_-]{7,}={0,2}/g)) {
    const bytes = Buffer.from(run, "base64");
    const inside = opened(bytes) ?? { text: textOf(bytes), encoding: "" };
    if (isReadable(inside.text))
      yield { text: inside.text, encoding: `${inside.encoding ? `${inside.encoding} in ` : ""}base64` };
    if (/^(?:[0-9a-f]{2}){5,}$/i.test(run)) {
      const plain = textOf(Buffer.from(run, "hex"));
      if (isReadable(plain)) yield { text: plain, encoding: "hex" };
    }
  }
}

function opened(bytes: Buffer): Layer | null {
  const head = bytes.subarray(0, 4).toString("hex");
  for (const { name, starts, open } of inflaters) {
    if (!head.startsWith(starts)) continue;
    try {
      return { text: textOf(open(bytes)), encoding: name };
    } catch {
      // It only began like that.
    }
  }
  return null;
}

/** The text, and everything that it says in some other writing. */
export function* layersOf(text: string): Iterable<Layer> {
  const seen = new Set<string>();
  let characters = 0;
  let queue: Layer[] = [{ text, encoding: "" }];
  for (let depth = 0; depth <= MAX_DEPTH && queue.length > 0; depth++) {
    const next: Layer[] = [];
    for (const layer of queue) {
      characters += layer.text.length;
      if (seen.has(layer.text) || seen.size > MAX_LAYERS || characters > MAX_CHARACTERS) continue;
      seen.add(layer.text);
      yield layer;
      const behind = (encoding: string) => (layer.encoding ? `${encoding} in ${layer.encoding}` : encoding);
      for (const [name, test, rewrite] of rewrites)
        if (test.test(layer.text)) next.push({ text: rewrite(layer.text), encoding: behind(name) });
      for (const run of runs(layer.text)) next.push({ text: run.text, encoding: behind(run.encoding) });
    }
    queue = next;
  }
}

/** Bytes as they are, and what lies compressed in them, also behind a picture's own head. */
export function* layersOfBytes(bytes: Buffer): Iterable<Layer> {
  yield* layersOf(textOf(bytes));
  const whole = opened(bytes);
  if (whole) yield* layersOf(whole.text);
  // zTXt and iTXt of PNG: keyword, zero, method, then zlib.
  for (let at = bytes.indexOf("zTXt"), n = 0; at >= 0 && n < 20; at = bytes.indexOf("zTXt", at + 4), n++) {
    const zero = bytes.indexOf(0, at + 4);
    const inside = zero > 0 ? opened(bytes.subarray(zero + 2)) : null;
    if (inside) yield* layersOf(inside.text);
  }
}
