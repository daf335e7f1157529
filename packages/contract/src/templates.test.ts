import assert from "node:assert/strict";
import { test } from "node:test";
import { PlatformError } from "./problems.ts";
import { checkBuildSpec, parseBuildSpec } from "./templates.ts";

test("an empty build spec is the standard template unchanged", () => {
  const spec = parseBuildSpec({});
  assert.equal(spec.from, "miosa-sandbox");
  assert.deepEqual(spec.steps, []);
});

test("each problem of a build spec names its place", () => {
  const { spec, problems } = checkBuildSpec({
    from: "",
    steps: [{ run: "true" }, { run: "" }, { command: "x" }],
    env: { "1BAD": "x" },
    previewPort: 70_000,
    "a/b": 1,
  });
  assert.equal(spec, null);
  const places = problems.map(({ pointer }) => pointer);
  for (const place of [
    "/from",
    "/steps/1/run",
    "/steps/2/run",
    "/steps/2/command",
    "/env/1BAD",
    "/previewPort",
    "/a~1b",
  ])
    assert.ok(places.includes(place), `${place} in ${places.join(" ")}`);
});

test("a ready command without a start command and steps on the machine's own system are refused", () => {
  assert.deepEqual(
    checkBuildSpec({ readyCmd: "true" }).problems.map(({ pointer }) => pointer),
    ["/readyCmd"],
  );
  assert.deepEqual(
    checkBuildSpec({ from: "host", steps: [{ run: "true" }] }).problems.map(({ pointer }) => pointer),
    ["/from"],
  );
});

test("a refused build spec is INVALID_BUILDSPEC with pointers in its details", () => {
  assert.throws(
    () => parseBuildSpec({ workdir: "relative" }),
    (error: unknown) =>
      error instanceof PlatformError &&
      error.code === "INVALID_BUILDSPEC" &&
      error.status === 422 &&
      JSON.stringify(error.details).includes("/workdir"),
  );
});
