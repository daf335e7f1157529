// Says on its last line, as JSON, what Drizzle saw. URL and CA come by the environment.
import { eq, sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/node-postgres";
import { migrate } from "drizzle-orm/node-postgres/migrator";
import { integer, jsonb, pgTable, serial, text } from "drizzle-orm/pg-core";
import pg from "pg";

const { DB_URL, DB_CA, TABLES } = process.env;
const pool = new pg.Pool({ connectionString: DB_URL, ssl: { ca: DB_CA }, max: 8 });
const db = drizzle({ client: pool });
const visits = pgTable("visits", {
  id: serial().primaryKey(),
  patient: text().notNull(),
  minutes: integer().notNull(),
  facts: jsonb().notNull().default({}),
});
if (TABLES === "make") await migrate(db, { migrationsFolder: "migrations" });
const patient = `patient-${TABLES}`;
const [made] = await db
  .insert(visits)
  .values({ patient, minutes: 30, facts: { rooms: ["a", "b"] } })
  .returning();
const refused = await db
  .insert(visits)
  .values({ patient, minutes: 1 })
  .catch((error) => error.cause?.code ?? error.code);
const undone = await db
  .transaction(async (inside) => {
    await inside.delete(visits).where(eq(visits.id, made.id));
    throw new Error("undone");
  })
  .catch((error) => error.message);
const prepared = db
  .select()
  .from(visits)
  .where(eq(visits.id, sql.placeholder("id")))
  .prepare("one_visit");
const seen = await Promise.all(Array.from({ length: 40 }, () => prepared.execute({ id: made.id })));
await db
  .update(visits)
  .set({ minutes: sql`${visits.minutes} + 15` })
  .where(eq(visits.id, made.id));
const [{ minutes, facts }] = await db.select().from(visits).where(eq(visits.id, made.id));
await pool.end();
console.log(
  JSON.stringify({
    refused,
    undone,
    prepared: seen.filter(([row]) => row?.id === made.id).length,
    minutes,
    facts,
  }),
);
