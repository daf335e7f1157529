import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";

const script = join(import.meta.dirname, "..", "..", "..", "scripts", "start.mjs");
const start = (...args: string[]) => spawnSync(process.execPath, [script, ...args], { encoding: "utf8" });

test("the start script refuses what it does not understand before it sets anything up", () => {
  const cases: [string[], RegExp][] = [
    [["--no-such-option"], /no-such-option/],
    [["--port", "80"], /--port needs --serve/],
    [["--serve", "--port", "seven"], /"seven" is no port/],
    [["--serve", "--port", "70000"], /"70000" is no port/],
    [["--serve", "--exit"], /--serve excludes/],
    [["--app", "/no/such/folder"], /is no folder/],
    [["word"], /word/],
  ];
  for (const [args, message] of cases) {
    const { status, stderr, stdout } = start(...args);
    assert.equal(status, 1, args.join(" "));
    assert.match(stderr, message);
    assert.equal(stdout, "");
  }
});
