import assert from "node:assert/strict";
import { test } from "node:test";
import { AcmeRefusal, failureOf, parseRetryAfter, ValidationFailed } from "./acme-errors.ts";
import { registeredDomain } from "./names.ts";
import { decide, renewalTime, retryAfterMs, type Scheduled } from "./schedule.ts";
import { limits } from "./settings.ts";
import { challengeFor } from "./step.ts";

const day = 86_400_000;
const now = new Date("2026-11-25T12:00:00Z");
const at = (days: number) => new Date(now.getTime() + days * day);
const row = (fields: Partial<Scheduled>): Scheduled => ({
  id: "a",
  notBefore: null,
  notAfter: null,
  nextTryAt: at(-1),
  isWanted: true,
  ...fields,
});

test("a wanted name without a certificate is ordered, but not before its next try", () => {
  assert.deepEqual(decide(row({}), now), { type: "order", isRenewal: false });
  assert.deepEqual(decide(row({ nextTryAt: at(1) }), now), { type: "wait", untilMs: at(1).getTime() });
});

test("renewal is due at two thirds of the life, up to a thirtieth earlier, the same at every look", () => {
  for (const id of ["a", "b", "c", "d"]) {
    const due = renewalTime(id, at(0), at(90)).getTime();
    assert.ok(due <= at(60).getTime() && due >= at(57).getTime(), id);
    assert.equal(due, renewalTime(id, at(0), at(90)).getTime());
  }
  assert.deepEqual(decide(row({ notBefore: at(-61), notAfter: at(29) }), now), {
    type: "order",
    isRenewal: true,
  });
  assert.equal(decide(row({ notBefore: at(-50), notAfter: at(40) }), now).type, "wait");
});

test("what nobody has any more is served until it ends, and never renewed", () => {
  const unwanted = { isWanted: false, notBefore: at(-80) };
  assert.deepEqual(decide(row({ ...unwanted, notAfter: at(10) }), now), {
    type: "wait",
    untilMs: at(10).getTime(),
  });
  assert.deepEqual(decide(row({ ...unwanted, notAfter: at(-1) }), now), { type: "retire" });
});

test("refusals stay below five in an hour, however they are spread by chance", () => {
  let elapsed = 0;
  let tries = 1;
  for (let failures = 1; elapsed <= 3_600_000; failures++) {
    elapsed += retryAfterMs(failures, "refusal", 0);
    if (elapsed <= 3_600_000) tries++;
  }
  assert.ok(tries <= limits.failedValidationsAnHour, String(tries));
  assert.ok(retryAfterMs(100) <= 1.1 * day);
  assert.ok(retryAfterMs(1, "outage") < retryAfterMs(1, "refusal"));
});

test("Retry-After is read as seconds or as a date, and bounded", () => {
  assert.equal(parseRetryAfter("120"), 120_000);
  assert.equal(parseRetryAfter("Wed, 25 Nov 2026 12:00:10 GMT", now.getTime()), 10_000);
  assert.equal(parseRetryAfter("99999999"), 7 * day);
  for (const nothing of ["", "soon", "-5", "0", undefined]) assert.equal(parseRetryAfter(nothing), null);
});

test("failures are named by status and type, never by the authority's words", () => {
  const urn = (kind: string) => `urn:ietf:params:acme:error:${kind}`;
  const reasons = [
    new AcmeRefusal(429, null, "x", null),
    new AcmeRefusal(400, urn("rateLimited"), "x", null),
    new AcmeRefusal(503, null, "x", null),
    new AcmeRefusal(400, urn("rejectedIdentifier"), "x", null),
    new AcmeRefusal(403, urn("accountDoesNotExist"), "x", null),
    new ValidationFailed("a.example", urn("caa"), "x"),
    new ValidationFailed("a.example", urn("connection"), "rateLimited"),
    new Error("connect ECONNREFUSED"),
  ].map((error) => failureOf(error).reason);
  assert.deepEqual(reasons, [
    "rate_limited",
    "rate_limited",
    "authority_failing",
    "name_rejected",
    "account_refused",
    "caa_forbids",
    "validation_failed",
    "authority_unreachable",
  ]);
});

test("after a failure the other challenge is tried; a wildcard knows only DNS", () => {
  const order = ["http-01", "tls-alpn-01"] as const;
  const kinds = [0, 1, 2].map((failures) => challengeFor({ name: "a.example", failures }, order));
  assert.deepEqual(kinds, ["http-01", "tls-alpn-01", "http-01"]);
  assert.equal(challengeFor({ name: "*.a.example", failures: 3 }, order), "dns-01");
});

test("limits count by registered domain, public suffixes considered", () => {
  assert.equal(registeredDomain("*.a.shop.co.uk"), "shop.co.uk");
  assert.equal(registeredDomain("shop.example"), "shop.example");
});
