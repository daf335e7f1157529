import { openPool } from "./database.js";

const migrations = [
  {
    name: "001-intake-forms",
    sql: `create table if not exists intake_forms (
            id bigint generated always as identity primary key,
            patient_name text not null,
            date_of_birth date not null,
            phone text,
            reason text not null,
            created_at timestamptz not null default now())`,
  },
];

const pool = openPool(process.env.DATABASE_URL);
const client = await pool.connect();
try {
  await client.query("begin");
  // Two instances that start together wait for each other here.
  await client.query("select pg_advisory_xact_lock(727001)");
  await client.query(
    "create table if not exists schema_migrations (name text primary key, applied_at timestamptz not null default now())",
  );
  const { rows } = await client.query("select name from schema_migrations");
  const applied = new Set(rows.map((row) => row.name));
  for (const migration of migrations) {
    if (applied.has(migration.name)) continue;
    await client.query(migration.sql);
    await client.query("insert into schema_migrations (name) values ($1)", [migration.name]);
    console.log(`applied ${migration.name}`);
  }
  await client.query("commit");
  console.log(`schema is at ${migrations.at(-1).name}`);
} catch (error) {
  await client.query("rollback");
  throw error;
} finally {
  client.release();
  await pool.end();
}
