import { execOrRefute, type LinkedDatabase, type Run } from "./workbench.ts";
import { refute } from "./proof.ts";
import { withPostgres } from "./probes.ts";

/** A Postgres of its own, proved by a login from this process. */
export async function createDatabase(run: Run): Promise<LinkedDatabase> {
  const { client, proof, resources, profile } = run;
  return proof.that("a new Postgres lets in with the credentials handed out", async () => {
    const created = await client.databases.create({ name: `${profile.name}-${run.suffix}` });
    resources.made("database", created.id);
    await client.databases.waitUntilReady(created.id);
    const credentials = await client.databases.credentials(created.id);
    const seen = await withPostgres(credentials, async (session) => {
      const { rows } = await session.query<{ version: string; tls: string | null }>(
        "select current_setting('server_version') as version, (select version from pg_stat_ssl where pid = pg_backend_pid()) as tls",
      );
      return rows[0];
    });
    const evidence = `own login: server ${seen?.version}, ${seen?.tls ?? "clear text"}, port ${credentials.port}`;
    return { value: { id: created.id, credentials }, evidence };
  });
}

/** The app's migration, run in the sandbox, seen by a login from here. */
export async function migrateInSandbox(run: Run, sandboxId: string, database: LinkedDatabase): Promise<void> {
  await run.proof.that("a migration run in the sandbox changed that database", async () => {
    const before = await countMigrations(database);
    await execOrRefute(run, sandboxId, "npm run migrate", 120);
    const after = await countMigrations(database);
    if (after <= before)
      refute(
        `schema_migrations has ${after} rows after the migration, ${before} before`,
        "Run `npm run migrate` by hand.",
      );
    return { value: null, evidence: `own login: schema_migrations went from ${before} to ${after} rows` };
  });
  await run.proof.that("a query from the sandbox reads that database", async () => {
    const name = `probe-${run.suffix}`;
    await withPostgres(database.credentials, (session) =>
      session.query(
        "insert into intake_forms (patient_name, date_of_birth, reason) values ($1, '1990-01-01', 'written from outside')",
        [name],
      ),
    );
    const script = `import('pg').then(async ({default: pg}) => { const u = new URL(process.env.DATABASE_URL); const s = u.searchParams.get('sslmode'); u.searchParams.delete('sslmode'); const c = new pg.Client({connectionString: u.href, ssl: s && s !== 'disable' ? {rejectUnauthorized: true} : false}); await c.connect(); const r = await c.query('select patient_name from intake_forms order by id desc limit 1'); console.log(r.rows[0].patient_name); await c.end(); })`;
    const seen = await execOrRefute(run, sandboxId, `node -e "${script}"`, 60);
    if (seen.stdout.trim() !== name)
      refute(`the sandbox read ${JSON.stringify(seen.stdout)}`, "Check which database is linked.");
    return { value: null, evidence: `it read the row ${name} that this process had inserted` };
  });
}

async function countMigrations(database: LinkedDatabase): Promise<number> {
  return withPostgres(database.credentials, async (session) => {
    const { rows } = await session.query<{ there: boolean }>(
      "select to_regclass('schema_migrations') is not null as there",
    );
    if (!rows[0]?.there) return 0;
    return Number(
      (await session.query<{ count: string }>("select count(*) from schema_migrations")).rows[0]?.count,
    );
  });
}

/** @returns whether a form of this patient is stored, by a login from here */
export async function hasRow(database: LinkedDatabase, patientName: string): Promise<boolean> {
  return withPostgres(database.credentials, async (session) => {
    const { rowCount } = await session.query("select 1 from intake_forms where patient_name = $1", [
      patientName,
    ]);
    return (rowCount ?? 0) > 0;
  });
}
