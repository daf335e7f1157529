import assert from "node:assert/strict";
import test from "node:test";
import { Refusals } from "./refusals.ts";

test("a release that refused is asked again five times a second, and by everybody once it took a connection", () => {
  let now = 0;
  const refusals = new Refusals(() => now);
  assert.equal(refusals.mayAsk("r1"), true);
  refusals.note("r1");
  assert.deepEqual([refusals.mayAsk("r1"), refusals.mayAsk("r2")], [false, true]);
  now = 199;
  assert.equal(refusals.mayAsk("r1"), false);
  now = 200;
  assert.deepEqual([refusals.mayAsk("r1"), refusals.mayAsk("r1")], [true, false]);
  refusals.forget("r1");
  assert.deepEqual([refusals.mayAsk("r1"), refusals.mayAsk("r1")], [true, true]);
});

test("no more than a thousand are remembered", () => {
  const refusals = new Refusals(() => 0);
  for (let i = 0; i <= 1_000; i++) refusals.note(`r${i}`);
  assert.deepEqual([refusals.mayAsk("r0"), refusals.mayAsk("r1")], [true, false]);
});
