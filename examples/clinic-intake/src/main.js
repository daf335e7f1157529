import { readFileSync } from "node:fs";
import { listenForRows, openPool } from "./database.js";
import { createApp } from "./server.js";

const { version } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"));
const databaseUrl = process.env.DATABASE_URL;
const pool = openPool(databaseUrl);
const app = createApp({ pool, version });
const stop = new AbortController();

const feed = listenForRows(
  databaseUrl,
  (id) => app.announce(id).catch((error) => console.error(`live feed: ${error.message}`)),
  stop.signal,
);
const port = Number(process.env.PORT ?? 3000);
app.server.listen(port, "0.0.0.0", () => console.log(`clinic-intake ${version} listens on ${port}`));

async function shutdown() {
  if (stop.signal.aborted) return;
  stop.abort();
  // A client that never ends its request must not keep the old release alive.
  setTimeout(() => process.exit(1), 10_000).unref();
  await app.close();
  await feed;
  await pool.end();
  process.exit(0);
}
process.on("SIGTERM", shutdown);
process.on("SIGINT", shutdown);
