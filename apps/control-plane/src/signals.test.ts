import assert from "node:assert/strict";
import test from "node:test";
import { Pool } from "pg";
import { Signals } from "./signals.ts";

test("a wait that nobody announces anything to ends with undefined, also by a fraction of a millisecond", async (t) => {
  const pool = new Pool();
  t.after(() => pool.end());
  let looks = 0;
  const value = await new Signals(pool).until("nothing", 30.5, async () => {
    looks++;
    return undefined;
  });
  assert.equal(value, undefined);
  assert.ok(looks >= 2);
});
