import assert from "node:assert/strict";
import { test } from "node:test";
import { networkRateOf, Pace } from "./pace.ts";

test("a second's worth passes at once, what is beyond waits its time, and a pause refills no more than that", () => {
  const pace = new Pace(1000);
  const start = performance.now();
  assert.equal(pace.take(1000, start), 0);
  assert.equal(Math.round(pace.take(500, start)), 500);
  assert.equal(Math.round(pace.take(500, start + 500)), 500);
  assert.equal(pace.take(1000, start + 60_000), 0);
  assert.equal(Math.round(pace.take(1000, start + 60_000)), 1000);
});

test("a larger box has a faster network, and an explicit limit beats the size", () => {
  assert.equal(networkRateOf({ cpuMillis: 100 }), 25_000_000);
  assert.equal(networkRateOf({ cpuMillis: 2000 }), 100_000_000);
  assert.equal(networkRateOf({ cpuMillis: 2000, networkBytesPerSecond: 5 }), 5);
});
