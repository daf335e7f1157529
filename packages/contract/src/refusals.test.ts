import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { deploymentRoutes, problems, refusalCodes, refusalPage } from "./index.ts";

const folder = join(import.meta.dirname, "..", "..", "..", "docs", "problems");

test("each refusal of a publish has its page, and each page its refusal (npm run problem-pages)", () => {
  assert.deepEqual(readdirSync(folder).sort(), refusalCodes.map((code) => `${code}.md`).sort());
  for (const code of refusalCodes)
    assert.equal(readFileSync(join(folder, `${code}.md`), "utf8"), refusalPage(code));
});

test("what a publish may answer with is in the catalogue", () => {
  const stated = (deploymentRoutes.publish.problems ?? []).filter((code) => problems[code].status === 422);
  assert.deepEqual(
    stated.filter((code) => !(refusalCodes as string[]).includes(code)),
    [],
  );
});
