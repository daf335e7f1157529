import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { forbiddenCalls } from "./calls.ts";

const repository = join(import.meta.dirname, "../../../..");
const page = join(repository, "docs/security.md");
/** Files whose tests are attempts, and how those begin in their source. */
const sources: readonly [file: string, begin: string][] = [
  ...["kernel", "machine", "shared", "network", "files", "resources"].map((name): [string, string] => [
    `apps/host/src/abuse/${name}.test.ts`,
    "await t.test(",
  ]),
  ["packages/guest-protocol/src/hostile.test.ts", "test("],
  ["e2e/escape.test.ts", "test("],
];
const wanted = 60;

/** Names that are written out; those made of parts are left out. */
const namesIn = (text: string, begin: string): string[] =>
  [...text.matchAll(/\btest\(\s*"((?:[^"\\]|\\.)*)"/g)]
    .filter((found) => begin === "test(" || text.slice(0, found.index).endsWith("await t."))
    .map(([, name = ""]) => name.replaceAll("\\", ""));

test("the page on security lists every attempt by the name of its test, and counts them", async () => {
  const rows: string[] = [];
  let count = 0;
  for (const [file, begin] of sources) {
    const names = namesIn(await readFile(join(repository, file), "utf8"), begin);
    if (file.endsWith("/kernel.test.ts")) names.unshift(...forbiddenCalls.map(({ what }) => what));
    assert.ok(names.length > 2, `${file} has no attempts`);
    count += names.length;
    rows.push(`| \`${file}\` | ${names.length} | ${names.join("; ").replaceAll("|", "\\|")} |`);
  }
  assert.ok(count >= wanted, `${count} attempts`);
  const table = ["| test | attempts | their names |", "| --- | ---: | --- |", ...rows].join("\n");
  const section = `<!-- attempts -->\n\n${count} attempts have a test of their own name:\n\n${table}\n\n<!-- /attempts -->`;
  const text = await readFile(page, "utf8");
  const renewed = text.replace(/<!-- attempts -->[^]*<!-- \/attempts -->/, () => section);
  if (process.env["UPDATE_DOCS"] === "1") await writeFile(page, renewed);
  else assert.equal(renewed, text, `renew it: UPDATE_DOCS=1 node --test ${import.meta.filename}`);
});
