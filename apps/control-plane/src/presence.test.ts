import assert from "node:assert/strict";
import { test } from "node:test";
import { waitFor } from "@platform/daemon";
import { createPool, queryOne } from "@platform/postgres";
import { createTestDatabase } from "@platform/postgres/testing";
import { appear, isPresent } from "./presence.ts";

test("a holder is present until its process lets go, and again after its session was lost", async (t) => {
  const database = await createTestDatabase();
  const pool = createPool(database.url, { max: 4 });
  const stopping = new AbortController();
  const { holder, ended } = await appear(pool, stopping.signal);
  t.after(async () => {
    stopping.abort();
    await ended;
    await pool.end();
    await database.drop();
  });
  const sees = async (name: string) =>
    (await queryOne<{ here: boolean }>(pool, `select ${isPresent("$1::text")} as here`, [name]))!.here;
  assert.equal(await sees(holder), true);
  assert.equal(await sees("somebody else"), false);

  await pool.query(
    "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and classid = 724003 and database = (select oid from pg_database where datname = current_database())",
  );
  await waitFor("the session to be made again", () => sees(holder), 5_000);

  stopping.abort();
  await ended;
  await waitFor("the session to be gone", async () => !(await sees(holder)), 5_000);
});
