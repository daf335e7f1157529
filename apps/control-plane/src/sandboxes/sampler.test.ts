import assert from "node:assert/strict";
import { test } from "node:test";
import { carried, cpuPercent } from "./sampler.ts";

test("processor time between two looks is a percentage of one core, and null where nothing can be compared", () => {
  assert.equal(cpuPercent({ micros: 0, at: 0 }, { micros: 500_000, at: 1_000 }), 50);
  assert.equal(cpuPercent({ micros: 1_000_000, at: 0 }, { micros: 5_000_000, at: 2_000 }), 200);
  assert.equal(cpuPercent({ micros: null, at: 0 }, { micros: 1, at: 1_000 }), null);
  assert.equal(cpuPercent({ micros: 5, at: 0 }, { micros: null, at: 1_000 }), null);
  assert.equal(cpuPercent({ micros: 5, at: 0 }, { micros: 4, at: 1_000 }), null, "a counter that began anew");
  assert.equal(cpuPercent({ micros: 0, at: 0 }, { micros: 5, at: 3_600_000 }), null, "a look of an hour ago");
});

test("what a counter had is carried over when it begins anew, and only then", () => {
  assert.equal(carried(100, 150, true), 0);
  assert.equal(carried(100, 20, true), 100);
  assert.equal(carried(100, 150, false), 100);
  assert.equal(carried(null, 20, false), 0);
  assert.equal(carried(100, null, true), 0);
});
