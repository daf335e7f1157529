import assert from "node:assert/strict";
import test from "node:test";
import { insteadOf } from "./lockfile-gaps.ts";

const refusal =
  "npm error `npm ci` can only install packages when your package.json and package-lock.json are in sync.";
const gap = "npm error Missing: @swc/html-darwin-arm64@ from lock file";
const command = "npm ci --no-audit --no-fund";

test("a lockfile without optional packages of other platforms is installed with every locked version", () => {
  assert.equal(insteadOf(command, [refusal, gap])?.command, "npm install --no-audit --no-fund");
});

test("one that disagrees about a version, or lacks one, is refused", () => {
  for (const line of [
    "npm error Missing: left-pad@1.3.0 from lock file",
    "npm error Invalid: lock file's ms@2.1.2 does not satisfy ms@2.1.3",
  ]) {
    assert.equal(insteadOf(command, [refusal, line]), null);
    assert.equal(insteadOf(command, [refusal, gap, line]), null);
  }
  assert.equal(insteadOf(command, [refusal]), null);
  assert.equal(insteadOf("yarn install", [refusal, gap]), null);
});
