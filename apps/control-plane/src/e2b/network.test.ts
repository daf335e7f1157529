import assert from "node:assert/strict";
import { test } from "node:test";
import { assertKept, toPolicy } from "./network.ts";
import { ClientProblem } from "./problem.ts";

const none = { allowed_domains: [], allowed_cidrs: [], denied_cidrs: [] };
const refused = (status: number, message: RegExp) => (error: unknown) =>
  error instanceof ClientProblem && error.status === status && message.test(error.message);

test("without rules everything may be reached", () => {
  assert.deepEqual(toPolicy({}, null), { mode: "allow-all", ...none });
  assert.deepEqual(toPolicy({ allowOut: ["example.com"] }, true), { mode: "allow-all", ...none });
});

test("with everything denied only what is allowed is left", () => {
  const left = {
    allowed_domains: ["*.example.com"],
    allowed_cidrs: ["8.8.8.8/32", "1.0.0.0/24"],
    denied_cidrs: [],
  };
  const allowOut = ["*.example.com", "8.8.8.8", "1.0.0.0/24"];
  assert.deepEqual(toPolicy({ allowOut, denyOut: ["0.0.0.0/0"] }, null), { mode: "deny-all", ...left });
  assert.deepEqual(toPolicy({ allowOut }, false), { mode: "deny-all", ...left });
});

test("what is allowed goes before what is denied", () => {
  assert.equal(toPolicy({ allowOut: ["0.0.0.0/0"], denyOut: ["0.0.0.0/0"] }, null).mode, "allow-all");
  assert.deepEqual(toPolicy({ allowOut: ["1.1.1.1"], denyOut: ["8.8.8.0/24", "fd00::/8"] }, null), {
    mode: "allow-all",
    ...none,
    denied_cidrs: ["8.8.8.0/24", "fd00::/8"],
  });
});

test("rules that would not be kept as they are meant are refused", () => {
  const denyOut = ["8.8.8.0/24"];
  assert.throws(() => toPolicy({ allowOut: ["8.8.8.8"], denyOut }, null), refused(400, /not supported/));
  assert.throws(() => toPolicy({ allowOut: ["8.0.0.0/8"], denyOut }, null), refused(400, /not supported/));
  assert.throws(() => toPolicy({ allowOut: ["dns.google"], denyOut }, null), refused(400, /not supported/));
  assert.throws(() => toPolicy({ denyOut: ["example.com"] }, null), refused(400, /denyOut/));
  assert.throws(() => toPolicy({ allowOut: ["not a name"] }, null), refused(400, /allowOut/));
  assert.throws(() => assertKept({ rules: { "a.test": [{}] } }), refused(400, /network rules/));
  assert.throws(() => assertKept({ egressProxy: { address: "a:1" } }), refused(400, /proxy/));
  assert.doesNotThrow(() => assertKept({ rules: {}, allowOut: [], allowPublicTraffic: false }));
});
