import assert from "node:assert/strict";
import { test } from "node:test";
import { Client } from "pg";
import { HostError, type DatabaseCredentials, type HostClient } from "@platform/host-api";
import { loginOptions } from "@platform/postgres";
import { clientPrograms } from "./client-programs.ts";
import { startTestHost } from "../../testing.ts";

const skip = await clientPrograms(16).then(
  () => false,
  (error: Error) => error.message,
);
const mib = 1024 * 1024;
const key = "db-clinic-1";
const spec = {
  ...{ engine: "postgresql" as const, version: "16", cpuMillis: 2000, hostname: "db.tenant.test" },
  ...{ memoryBytes: 64 * mib, storageBytes: 256 * mib },
};

async function as<T>(credentials: DatabaseCredentials, work: (client: Client) => Promise<T>): Promise<T> {
  const { port, username: user, password, database, caCertificate, host } = credentials;
  const client = new Client(
    loginOptions({
      ...{ host: "127.0.0.1", port, user, password, database },
      ssl: { ca: caCertificate!, servername: host },
    }),
  );
  client.on("error", () => undefined);
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end().catch(() => undefined); // The server may have ended it.
  }
}

const versionOf = (login: DatabaseCredentials) =>
  as(login, async (client) => {
    const { rows } = await client.query<{ major: number }>(
      "select current_setting('server_version_num')::int / 10000 as major",
    );
    return rows[0]!.major;
  });

const notes = (login: DatabaseCredentials) =>
  as(login, async (client) => {
    const { rows } = await client.query<{ text: string }>("select text from notes order by id");
    return rows.map(({ text }) => text);
  });

/** A bit of everything that has to come along. */
async function fill(client: HostClient): Promise<DatabaseCredentials> {
  await client.putDatabase(key, spec);
  const login = await client.credentials(key);
  await as(login, async (session) => {
    await session.query(`
      create extension pgcrypto;
      create schema "Odd name";
      create type mood as enum ('well', 'ill');
      create table notes (id serial primary key, text text not null, mood mood default 'well', at timestamptz default now());
      create table "Odd name"."a""b" (id int primary key, note int references notes, body jsonb, raw bytea);
      create function shout(text) returns text language sql immutable as 'select upper($1)';
      create index on notes (shout(text));
      create materialized view counted as select count(*) from notes;
      create view loud as select shout(text) as text from notes;
      alter table notes enable row level security;
      alter table notes force row level security;
      create policy everyone on notes using (true);
      insert into notes (text) select 'note ' || n from generate_series(1, 500) n;
      insert into "Odd name"."a""b" select n, n, jsonb_build_object('n', n), decode(md5(n::text), 'hex') from generate_series(1, 300) n;
      select lo_from_bytea(0, 'large');`);
    await session.query(`alter database ${login.database} set statement_timeout = '25s'`);
    await session.query(`alter database ${login.database} set search_path = public, "Odd name"`);
  });
  return login;
}

test(
  "an upgrade keeps address, accounts, settings and content, and leaves a way back",
  { skip },
  async (t) => {
    const host = await startTestHost(t);
    const { client } = host;
    const login = await fill(client);
    const reader = await client.putDatabaseUser(key, "reports", "read");
    const upgraded = await client.upgradeDatabase(key, "18");
    assert.equal(upgraded.state, "running");
    assert.match(upgraded.version, /^18\./);
    assert.deepEqual(upgraded.wayBack, { version: "16" });
    assert.deepEqual(await client.credentials(key), { ...login, ...(await pooledOf(client)) });
    assert.equal(await versionOf(login), 18);
    assert.equal((await notes(login)).length, 500);
    assert.equal((await notes(reader)).length, 500);
    await assert.rejects(as(reader, (session) => session.query("delete from notes")));
    await as(login, async (session) => {
      const { rows } = await session.query("show statement_timeout");
      assert.deepEqual(rows, [{ statement_timeout: "25s" }]);
      // What was made before can be changed and dropped: its owner is the same.
      await session.query("insert into notes (text) values ('after')");
      await session.query(`drop table "a""b"; alter table notes add column more int`);
    });
    assert.deepEqual(
      (await client.databases()).map((database) => database.key),
      [key],
      "the server that waits is nobody's database",
    );

    const rotated = await client.rotate(key);
    await client.endRotation(key);
    const back = await client.goBack(key);
    assert.match(back.version, /^16\./);
    assert.equal(back.wayBack, null);
    assert.equal(await versionOf(rotated), 16);
    assert.equal((await notes(rotated)).includes("after"), false, "what was written since is gone");
    await assert.rejects(
      versionOf(login),
      { code: /28P01|28000/ },
      "a password that was taken back stays so",
    );
    await client.deleteDatabase(key);
    assert.deepEqual(await client.databases(), []);
  },
);

/** Its port goes along; whether it serves is another matter. */
const pooledOf = async (client: HostClient) => {
  const { pooledUrl, pooledPort } = await client.credentials(key);
  return { pooledUrl, pooledPort };
};

test(
  "what a tenant defined never runs with the platform's rights, and what cannot be loaded changes nothing",
  { skip },
  async (t) => {
    const host = await startTestHost(t);
    const { client } = host;
    const login = await fill(client);
    await as(login, async (session) => {
      // An index that calls back: at the load it runs as whoever loads.
      await session.query(`
      create table seen (who text);
      create table trap (id int);
      create function watch(int) returns int language plpgsql immutable as $$
        begin
          if (select rolsuper from pg_roles where rolname = current_user) then raise exception 'ran as %', current_user; end if;
          return $1;
        end $$;
      create function as_text(trap) returns text language plpgsql as $$ begin raise exception 'a cast ran'; end $$;
      create cast (trap as text) with function as_text(trap);
      insert into trap values (1), (2);
      create index on trap (watch(id));`);
    });
    assert.match((await client.upgradeDatabase(key, "17")).version, /^17\./);

    // A function that fails wherever it runs anew: the load cannot succeed.
    await as(login, async (session) => {
      await session.query(`
      create function once(int) returns int language plpgsql immutable as $$ begin return $1; end $$;
      create index on trap (once(id));
      create or replace function once(int) returns int language plpgsql immutable as $$ begin raise exception 'no more'; end $$;`);
    });
    await assert.rejects(client.upgradeDatabase(key, "18"), (error) => {
      assert.ok(error instanceof HostError);
      assert.deepEqual([error.status, error.details["reason"]], [422, "upgrade_failed"]);
      assert.match(error.message, /no more.*stays on its version/s);
      return true;
    });
    assert.equal(await versionOf(login), 17);
    assert.equal((await client.probe(key)).ok, true);
    assert.equal((await notes(login)).length, 500);
    await assert.rejects(client.upgradeDatabase(key, "16"), { code: "INVALID" });
    await assert.rejects(client.upgradeDatabase(key, "99"), { code: "INVALID" });
  },
);

test("cut off at any step, an upgrade has happened or has not, with every row", { skip }, async (t) => {
  const host = await startTestHost(t);
  for (const step of ["upgrade-made", "upgrade-closed", "upgrade-carried", "upgrade-decided"]) {
    await t.test(step, async () => {
      const login = await fill(host.client);
      await host.armFault(`host.postgresql.${step}`);
      await assert.rejects(host.client.upgradeDatabase(key, "18"), HostError);
      await host.kill("SIGKILL");
      await host.start();
      const seen = await host.client.probe(key);
      assert.equal(seen.ok, true, seen.detail ?? "");
      assert.equal(await versionOf(login), step === "upgrade-decided" ? 18 : 16);
      assert.equal((await notes(login)).length, 500);
      const again = await host.client.upgradeDatabase(key, "18");
      assert.match(again.version, /^18\./);
      assert.deepEqual(again.wayBack, { version: "16" });
      assert.equal((await notes(login)).length, 500);
      await host.armFault("host.postgresql.back-proved");
      await assert.rejects(host.client.goBack(key), HostError);
      await host.kill("SIGKILL");
      await host.start();
      assert.equal(await versionOf(login), 18);
      assert.match((await host.client.goBack(key)).version, /^16\./);
      await host.client.deleteDatabase(key);
    });
  }
});
