import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { HeadInjector } from "./inject.ts";
import { verdictOf } from "./policy.ts";

const mark = "<S>";
function inject(text: string, sizes: readonly number[] = []): string {
  const injector = new HeadInjector(mark);
  const bytes = Buffer.from(text);
  const parts: Buffer[] = [];
  let at = 0;
  for (const size of sizes) {
    parts.push(injector.push(bytes.subarray(at, at + size)));
    at += size;
  }
  if (at < bytes.length) parts.push(injector.push(bytes.subarray(at)));
  parts.push(injector.end());
  return Buffer.concat(parts).toString();
}

const documents: Record<string, string> = {
  "<!doctype html><html><head><title>a</title>": "<!doctype html><html><head><S><title>a</title>",
  "\n <!DOCTYPE html>\n<HTML lang=en>\n<HEAD data-a='>'>x":
    "\n <!DOCTYPE html>\n<HTML lang=en>\n<HEAD data-a='>'><S>x",
  "<!-- <head> --!><!--><!-- a -- b --><head>": "<!-- <head> --!><!--><!-- a -- b --><head><S>",
  "<html><body>": "<html><S><body>",
  "<html><header>": "<html><S><header>",
  "<p>text": "<S><p>text",
  text: "<S>text",
  "<he": "<S><he",
  "\ufeff<head>": "\ufeff<head><S>",
  "<?xml version='1.0'?><head/>a": "<?xml version='1.0'?><head/><S>a",
  "<!doctype html>": "<!doctype html>",
  "": "",
};

for (const [given, wanted] of Object.entries(documents))
  test(`${JSON.stringify(given.slice(0, 30))} gets the script where its head begins`, () => {
    assert.equal(inject(given), wanted);
  });

test("where a document is cut does not matter", () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...Object.entries(documents)),
      fc.array(fc.integer({ min: 0, max: 7 }), { maxLength: 40 }),
      ([given, wanted], sizes) => assert.equal(inject(given, sizes), wanted),
    ),
  );
});

test("whatever the bytes are, the script is all that is added", () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 30 }), { maxLength: 10 }), (chunks) => {
      const injector = new HeadInjector("\u0001\u0002\u0003script");
      const out = [...chunks.map((chunk) => injector.push(Buffer.from(chunk))), injector.end()];
      const text = Buffer.concat(out).toString("latin1").replace("\u0001\u0002\u0003script", "");
      assert.equal(text, Buffer.concat(chunks).toString("latin1"));
    }),
  );
});

test("a document of two-byte characters is left alone", () => {
  const bytes = Buffer.concat([Buffer.from([0xff, 0xfe]), Buffer.from("<head>", "utf16le")]);
  const injector = new HeadInjector(mark);
  assert.deepEqual(Buffer.concat([injector.push(bytes), injector.end()]), bytes);
});

test("no more than a few bytes wait for the next chunk", () => {
  const injector = new HeadInjector(mark);
  const comment = `<!doctype html><!-- ${"a".repeat(50_000)}`;
  assert.ok(injector.push(Buffer.from(comment)).length >= comment.length - 10);
});

const policies: readonly [string[], string][] = [
  [[], "allowed"],
  [["default-src 'self'"], "allowed"],
  [["img-src 'none'"], "allowed"],
  [["script-src *; connect-src https:"], "allowed"],
  [["script-src 'nonce-abc' 'strict-dynamic'"], "nonce abc"],
  [["script-src 'self' 'nonce-abc' 'strict-dynamic'; connect-src 'self'"], "nonce abc"],
  [["script-src 'nonce-a'", "script-src 'nonce-b' 'nonce-a'"], "nonce a"],
  [["script-src 'nonce-a', script-src 'nonce-b'"], "script-src"],
  [["default-src 'none'"], "connect-src"],
  [["script-src 'unsafe-inline'"], "script-src"],
  [["script-src 'none'; script-src 'self'"], "script-src"],
  [["default-src 'self'; script-src-elem 'sha256-x'"], "script-src"],
  [["connect-src 'none'"], "connect-src"],
  [["sandbox allow-scripts"], "sandbox"],
  [["sandbox allow-scripts allow-same-origin"], "allowed"],
];
for (const [headers, wanted] of policies)
  test(`a page with the policy ${JSON.stringify(headers)}: ${wanted}`, () => {
    const verdict = verdictOf(headers, "https");
    if (wanted === "allowed") assert.deepEqual(verdict, { type: "allowed", nonce: null });
    else if (wanted.startsWith("nonce "))
      assert.deepEqual(verdict, { type: "allowed", nonce: wanted.slice("nonce ".length) });
    else {
      assert.equal(verdict.type, "refused");
      assert.ok(verdict.type === "refused" && verdict.reason.includes(wanted), JSON.stringify(verdict));
    }
  });
