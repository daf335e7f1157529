import { readdirSync } from "node:fs";
import { join } from "node:path";
import { Client } from "pg";
import { waitFor } from "@platform/daemon";
import { loginOptions } from "@platform/postgres";
import type { Boxes } from "./testing-boxes.ts";

type Row = Record<string, unknown>;

/** Polls `path` until what it answers is `done`. */
export async function until(
  boxes: Boxes,
  path: string,
  what: string,
  done: (row: Row) => boolean,
): Promise<Row> {
  let last: Row = {};
  return waitFor(
    what,
    async () => {
      last = await boxes.must("GET", path);
      return done(last) && last;
    },
    180_000,
  ).catch((cause: unknown) => {
    throw new Error(`${what}: last seen ${JSON.stringify(last)}`, { cause });
  });
}

/** A client of the direct URL, logged in. */
export async function openClient(boxes: Boxes, id: string): Promise<Client> {
  const found = await boxes.must("GET", `/databases/${id}/credentials`);
  const ca = String((found["ssl"] as Row)["ca_certificate"]);
  const client = new Client(
    loginOptions({
      host: "127.0.0.1",
      port: Number(found["port"]),
      user: String(found["user"]),
      password: String(found["password"]),
      database: String(found["database"]),
      ssl: { ca, servername: String(found["host"]) },
    }),
  );
  client.on("error", () => undefined);
  await client.connect();
  return client;
}

export async function ask(boxes: Boxes, id: string, sql: string): Promise<Row[]> {
  const client = await openClient(boxes, id);
  try {
    return (await client.query<Row>(sql)).rows;
  } finally {
    await client.end();
  }
}

/** Every file below a folder. */
export function filesBelow(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    return entry.isDirectory() ? filesBelow(path) : [path];
  });
}
