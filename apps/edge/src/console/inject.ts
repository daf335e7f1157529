import { Transform, type TransformCallback } from "node:stream";

/** Longest text that has to be seen to know what stands there: `<!doctype` and one more. */
const LOOKAHEAD = 10;
const between = { LT: 0x3c, GT: 0x3e, QUOTE: 0x22, APOSTROPHE: 0x27 } as const;

const isSpace = (byte: number): boolean =>
  byte === 0x20 || byte === 0x09 || byte === 0x0a || byte === 0x0c || byte === 0x0d;

type State =
  | { type: "between" }
  | { type: "comment" }
  | { type: "tag"; isHead: boolean; quote: number | null }
  | { type: "done" };

/**
 * Puts markup where the head of a document begins: behind `<head>`, or before the first thing that is neither
 * white space, comment, doctype nor `<html>`. A stream is held up by no more than the few bytes whose meaning
 * is not clear yet. Bytes of an encoding without ASCII (UTF-16) are left alone, and so is an empty body.
 *
 * @see https://html.spec.whatwg.org/multipage/parsing.html#the-before-head-insertion-mode
 */
export class HeadInjector {
  readonly #markup: Buffer;
  #state: State = { type: "between" };
  #held: Buffer = Buffer.alloc(0);
  #isStart = true;

  constructor(markup: string) {
    this.#markup = Buffer.from(markup, "latin1");
  }

  push(chunk: Buffer): Buffer {
    if (this.#state.type === "done") return chunk;
    const text = this.#held.length === 0 ? chunk : Buffer.concat([this.#held, chunk]);
    this.#held = Buffer.alloc(0);
    return this.#scan(text);
  }

  /** What was held back; the document ends here. */
  end(): Buffer {
    const rest = this.#held;
    this.#held = Buffer.alloc(0);
    if (this.#state.type !== "between" || rest.length === 0) return rest;
    this.#state = { type: "done" };
    return Buffer.concat([this.#markup, rest]);
  }

  #scan(text: Buffer): Buffer {
    let at = 0;
    for (;;) {
      const state = this.#state;
      if (state.type === "done") return text;
      if (state.type === "comment") {
        const end = commentEnd(text, at);
        if (end < 0) return this.#hold(text, Math.max(at, text.length - 3));
        at = end;
        this.#state = { type: "between" };
      } else if (state.type === "tag") {
        const end = tagEnd(text, at, state);
        if (end < 0) return text;
        at = end;
        if (state.isHead) return this.#insert(text, at);
        this.#state = { type: "between" };
      } else {
        if (this.#isStart) {
          if (text.length < 3) return this.#hold(text, 0);
          this.#isStart = false;
          const first = text.readUInt16BE(0);
          if (first === 0xfeff || first === 0xfffe) return this.#insert(text, -1);
          if (first === 0xefbb && text[2] === 0xbf) at = 3;
        }
        while (at < text.length && isSpace(text[at]!)) at++;
        const seen = text.toString("latin1", at, at + LOOKAHEAD).toLowerCase();
        const next = stateAt(seen);
        if (next === "unclear") return this.#hold(text, at);
        if (next === "content") return this.#insert(text, at);
        this.#state = next.state;
        at += next.length;
      }
    }
  }

  /** Lets everything before `at` go and keeps the rest for the next chunk. */
  #hold(text: Buffer, at: number): Buffer {
    this.#held = Buffer.from(text.subarray(at));
    return text.subarray(0, at);
  }

  #insert(text: Buffer, at: number): Buffer {
    this.#state = { type: "done" };
    return at < 0 ? text : Buffer.concat([text.subarray(0, at), this.#markup, text.subarray(at)]);
  }
}

const openings: readonly { readonly text: string; readonly isName: boolean; readonly state: () => State }[] =
  [
    { text: "<!--", isName: false, state: () => ({ type: "comment" }) },
    { text: "<!doctype", isName: false, state: () => ({ type: "tag", isHead: false, quote: null }) },
    { text: "<?", isName: false, state: () => ({ type: "tag", isHead: false, quote: null }) },
    { text: "<html", isName: true, state: () => ({ type: "tag", isHead: false, quote: null }) },
    { text: "<head", isName: true, state: () => ({ type: "tag", isHead: true, quote: null }) },
  ];

/** @param seen the next bytes, lower case, at most `LOOKAHEAD` */
function stateAt(seen: string): "unclear" | "content" | { state: State; length: number } {
  for (const { text, isName, state } of openings) {
    if (seen.length < text.length + (isName ? 1 : 0)) {
      if (text.startsWith(seen.slice(0, text.length)) && (seen.length <= text.length || seen === text))
        return "unclear";
      continue;
    }
    if (!seen.startsWith(text)) continue;
    // `<header` begins like `<head`.
    if (isName && !/[\s/>]/.test(seen[text.length]!)) continue;
    // The end of a comment may share its hyphens with the beginning: `<!-->` is one.
    return { state: state(), length: text === "<!--" ? 2 : text.length };
  }
  return "content";
}

/** Index behind `-->` or `--!>`; -1 when it is not there yet. */
function commentEnd(text: Buffer, from: number): number {
  for (let at = text.indexOf("--", from); at >= 0; at = text.indexOf("--", at + 1)) {
    if (text[at + 2] === between.GT) return at + 3;
    if (text[at + 2] === 0x21 && text[at + 3] === between.GT) return at + 4;
  }
  return -1;
}

/** Index behind the `>` that ends the tag; -1 when it is not there yet. Changes `state.quote`. */
function tagEnd(text: Buffer, from: number, state: { quote: number | null }): number {
  for (let at = from; at < text.length; at++) {
    const byte = text[at]!;
    if (state.quote !== null) {
      if (byte === state.quote) state.quote = null;
    } else if (byte === between.QUOTE || byte === between.APOSTROPHE) state.quote = byte;
    else if (byte === between.GT) return at + 1;
  }
  return -1;
}

/** The same as a stream. */
export class InjectStream extends Transform {
  readonly #injector: HeadInjector;

  constructor(markup: string) {
    super();
    this.#injector = new HeadInjector(markup);
  }

  override _transform(chunk: Buffer, _encoding: string, done: TransformCallback): void {
    const out = this.#injector.push(chunk);
    done(null, out.length > 0 ? out : undefined);
  }

  override _flush(done: TransformCallback): void {
    const out = this.#injector.end();
    done(null, out.length > 0 ? out : undefined);
  }
}
