// Says on its last line, as JSON, what Prisma Client saw. URL and CA come by the environment.
import { PrismaPg } from "@prisma/adapter-pg";
import { PrismaClient } from "./generated/client.ts";

const { DB_URL, DB_CA, TABLES } = process.env;
const prisma = new PrismaClient({
  adapter: new PrismaPg({ connectionString: DB_URL, ssl: { ca: DB_CA }, max: 8 }),
});
if (TABLES === "make") {
  await prisma.$executeRawUnsafe(`create table "Patient" (id serial primary key, name text unique not null)`);
  await prisma.$executeRawUnsafe(
    `create table "Note" (id serial primary key, text text not null, "patientId" int not null references "Patient")`,
  );
}
const name = `patient-${TABLES}`;
const made = await prisma.patient.create({
  data: { name, notes: { create: [{ text: "first" }, { text: "second" }] } },
  include: { notes: true },
});
const refused = await prisma.patient.create({ data: { name } }).catch((error) => error.code);
const undone = await prisma
  .$transaction(async (inside) => {
    await inside.note.deleteMany({ where: { patientId: made.id } });
    throw new Error("undone");
  })
  .catch((error) => error.message);
await prisma.$transaction(async (inside) => {
  const found = await inside.patient.findUniqueOrThrow({ where: { id: made.id } });
  await inside.note.create({ data: { text: `of ${found.name}`, patientId: found.id } });
});
await Promise.all(
  Array.from({ length: 40 }, (_, n) => prisma.note.create({ data: { text: `n${n}`, patientId: made.id } })),
);
const notes = await prisma.note.count({ where: { patientId: made.id } });
const [{ tls }] = await prisma.$queryRaw`select ssl as tls from pg_stat_ssl where pid = pg_backend_pid()`;
await prisma.$disconnect();
console.log(JSON.stringify({ nested: made.notes.length, refused, undone, notes, tls }));
