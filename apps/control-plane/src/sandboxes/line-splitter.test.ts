import assert from "node:assert/strict";
import { test } from "node:test";
import { lineSplitter, maxLineLength } from "./line-splitter.ts";

test("lines span chunks, lose their line ends, and the last one needs none", () => {
  const lines: string[] = [];
  const splitter = lineSplitter((line) => lines.push(line));
  for (const chunk of ["a", "b\r\n", "\nc"]) splitter.push(chunk);
  splitter.end();
  assert.deepEqual(lines, ["ab", "", "c"]);
});

test("output without a line break is passed on in pieces, not gathered", () => {
  let longest = 0;
  let total = 0;
  const splitter = lineSplitter((line) => {
    longest = Math.max(longest, line.length);
    total += line.length;
  });
  for (let count = 0; count < 1000; count++) splitter.push("x".repeat(100_000));
  assert.equal(longest, maxLineLength);
  assert.ok(100_000_000 - total <= maxLineLength);
  splitter.end();
  assert.equal(total, 100_000_000);
});
