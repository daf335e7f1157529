import assert from "node:assert/strict";
import { test } from "node:test";
import { createMasking, MaskedLines } from "./masking.ts";

const secret = "s3cr3t/of the+app";
const pem = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nAQEFAASCBKcwggSjAgEAAoIB\n-----END KEY-----";

function lines(chunks: readonly string[], secrets = [secret]): string[] {
  const found: string[] = [];
  const splitter = new MaskedLines(createMasking(secrets), (line) => found.push(line));
  for (const chunk of chunks) splitter.push(chunk);
  splitter.end();
  return found;
}

test("a secret is masked wherever a chunk ends within it", () => {
  const text = `before ${secret} after\nnext\n`;
  for (let at = 0; at <= text.length; at++)
    assert.deepEqual(lines([text.slice(0, at), text.slice(at)]), ["before [masked] after", "next"]);
  assert.deepEqual(lines([...text]), ["before [masked] after", "next"]);
});

test("encoded secrets are masked too", () => {
  const base64 = Buffer.from(`user:${secret}`).toString("base64");
  for (const text of [encodeURIComponent(secret), Buffer.from(secret).toString("hex"), base64]) {
    const [line] = lines([`x ${text}\n`]);
    assert.match(line!, /\[masked\]/);
    assert.ok(!line!.includes(text));
  }
});

test("a key of several lines is masked line by line", () => {
  const seen = lines([`${pem}\n`], [pem]).join("\n");
  assert.ok(!seen.includes("MIIE") && !seen.includes("AQEF"), seen);
});

test("a line without an end comes in parts, and a secret across their border is masked", () => {
  for (let shift = 0; shift < secret.length + 2; shift++) {
    const chunks = ["x".repeat(65_530 - shift), secret, "y".repeat(200_000), secret];
    const parts = lines(chunks);
    assert.ok(parts.length > 1);
    const whole = parts.join("");
    assert.equal(whole.split("[masked]").length - 1, 2);
    assert.ok(!whole.includes(secret.slice(0, 8)) && !whole.includes(secret.slice(-8)));
  }
});

test("a short value masks nothing, and no secret changes nothing", () => {
  assert.deepEqual(lines(["a true line\n"], ["true"]), ["a true line"]);
  assert.deepEqual(lines(["a\r\nb"], []), ["a", "b"]);
});
