import pg from "pg";

/**
 * `sslmode` in the URL decides between TLS and clear text; with TLS the certificate is always
 * verified, against the authorities that Node knows (NODE_EXTRA_CA_CERTS adds one).
 */
function connectionOptions(databaseUrl) {
  const url = new URL(databaseUrl);
  const mode = url.searchParams.get("sslmode") ?? "disable";
  url.searchParams.delete("sslmode");
  return {
    connectionString: url.href,
    ssl: mode === "disable" ? false : { rejectUnauthorized: true },
    connectionTimeoutMillis: 5_000,
  };
}

/** @throws Error when DATABASE_URL is absent */
export function openPool(databaseUrl) {
  if (!databaseUrl) throw new Error("DATABASE_URL is not set: link a database to this app.");
  const pool = new pg.Pool({ ...connectionOptions(databaseUrl), max: 5, idleTimeoutMillis: 30_000 });
  // Without a listener, a server restart would end this process.
  pool.on("error", (error) => console.error(`database connection lost: ${error.message}`));
  return pool;
}

/**
 * Calls `onId` for each row that any instance of the app stores, until the signal aborts. Postgres
 * carries the news, so that two instances behind one URL show the same list.
 */
export async function listenForRows(databaseUrl, onId, signal) {
  for (let failures = 0; !signal.aborted; failures++) {
    const client = new pg.Client(connectionOptions(databaseUrl));
    const ended = new Promise((resolve) => client.once("end", resolve));
    client.on("error", (error) => console.error(`live feed lost: ${error.message}`));
    client.on("notification", (message) => onId(message.payload));
    const close = () => void client.end().catch(() => undefined);
    try {
      await client.connect();
      await client.query("listen intake_forms");
      failures = 0;
      signal.addEventListener("abort", close, { once: true });
      await ended;
    } catch (error) {
      console.error(`live feed cannot start: ${error.message}`);
      close();
    }
    signal.removeEventListener("abort", close);
    if (!signal.aborted) await pause(Math.min(5_000, 200 * 2 ** failures), signal);
  }
}

function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
