import assert from "node:assert/strict";
import { test } from "node:test";
import type { Pool } from "pg";
import { Signals } from "./signals.ts";

test("a look that never succeeds ends quietly when its time is over, also with a fraction left", async () => {
  // Waiting asks nothing of the database.
  const signals = new Signals({} as Pool);
  let looks = 0;
  const found = await signals.until("quiet", 40.5, () => {
    looks++;
    return Promise.resolve(undefined);
  });
  assert.equal(found, undefined);
  assert.ok(looks >= 2);
});
