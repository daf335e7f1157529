import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type AddressInfo, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Command } from "commander";
import type { Client, DatabaseCredentials, DatabaseQueryResult } from "@platform/sdk";
import { withClient, type Context } from "../context.ts";
import { CliError } from "../failure.ts";
import { table } from "../output.ts";
import { parseCount, parsePort } from "../pairs.ts";

interface ShellOptions {
  readonly command?: string;
  readonly readOnly?: boolean;
}

/** Ways into a database: one statement, a shell, a local port, and what it tells about itself. */
export function addAccess(database: Command, context: () => Context): void {
  database
    .command("query")
    .description("run one SQL statement and print its rows")
    .argument("<database>", "id or name")
    .argument("<sql>")
    .option("--read-only", "the server itself refuses to write")
    .option("--max-rows <n>", "", parseCount)
    .option("--timeout <seconds>", "", parseCount)
    .action(
      async (id: string, sql: string, options: { readOnly?: boolean; maxRows?: number; timeout?: number }) =>
        withClient(context(), async ({ databases }) => {
          const result = await databases.query((await databases.find(id)).id, {
            sql,
            read_only: options.readOnly ?? false,
            ...(options.maxRows ? { max_rows: options.maxRows } : {}),
            ...(options.timeout ? { timeout_ms: options.timeout * 1000 } : {}),
          });
          printRows(context(), result);
        }),
    );
  database
    .command("shell")
    .description("psql, mariadb or redis-cli of this machine, connected through the API")
    .argument("<database>", "id or name")
    .option("-c, --command <statement>", "run it and leave")
    .option("--read-only", "the server itself refuses to write; not for Redis")
    .action(async (id: string, options: ShellOptions) => shell(context(), id, options));
  database
    .command("tunnel")
    .description("listen on this machine and lead connections to the database's server")
    .argument("<database>", "id or name")
    .option("--port <port>", "on 127.0.0.1; a free one when left out", parsePort)
    .action(async (id: string, options: { port?: number }) =>
      withClient(context(), async (client) => {
        const { id: databaseId, engine } = await client.databases.find(id);
        const { database: name, username } = await client.databases.credentials(databaseId);
        const server = await listen(client, databaseId, options.port ?? 0, context());
        const { port } = server.address() as AddressInfo;
        const value = { host: "127.0.0.1", port, engine, database: name, username };
        context().output.result(value, `127.0.0.1:${port} leads to ${name} (${engine}); Ctrl-C ends it`);
        await Promise.race([once(process, "SIGINT"), once(process, "SIGTERM")]);
        server.close();
      }),
    );
  database
    .command("metrics")
    .description("memory, storage, connections, cache hits and slow statements")
    .argument("<database>", "id or name")
    .action(async (id: string) =>
      withClient(context(), async ({ databases }) => {
        const { current } = await databases.metrics((await databases.find(id)).id);
        context().output.result(current, metricLines(current));
      }),
    );
  database
    .command("logs")
    .description("the server's last lines")
    .argument("<database>", "id or name")
    .option("-n, --lines <n>", "at most 500", parseCount)
    .action(async (id: string, options: { lines?: number }) =>
      withClient(context(), async ({ databases }) => {
        const lines = await databases.logs((await databases.find(id)).id, options.lines);
        context().output.result({ lines }, lines);
      }),
    );
}

const cell = (value: unknown): string =>
  value === null ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);

function printRows(context: Context, result: DatabaseQueryResult): void {
  const names = result.columns.map(({ name }) => name);
  const rows = result.rows.map((row) => Object.values(row).map(cell));
  const changed = `${result.command ?? "done"}${result.row_count === null ? "" : `, ${result.row_count} rows`}`;
  context.output.result(result, names.length > 0 ? table(names, rows) : changed);
  if (result.truncated)
    context.output.say(
      result.truncated_by === "rows"
        ? `only the first ${result.rows.length} rows: more with --max-rows, or page with LIMIT`
        : `only the first ${result.rows.length} rows: the answer may hold 4 MiB`,
    );
}

function metricLines(current: Record<string, unknown>): string[] {
  const of = (name: string) => current[name] ?? "-";
  const ratio = current["cache_hit_ratio"];
  const slow = current["slow_queries"] as {
    longer_than_ms: number;
    count: number | null;
    statements: { text: string; calls: number; mean_ms: number; max_ms: number }[] | null;
  } | null;
  const lines = [
    `state        ${of("state")}`,
    `memory       ${of("memory_used_mb")} of ${of("memory_mb")} MiB`,
    `storage      ${of("storage_used_mb")} of ${of("storage_mb")} MiB`,
    `connections  ${of("connections")}`,
    `cache hits   ${typeof ratio === "number" ? `${(ratio * 100).toFixed(1)} %` : "-"}`,
  ];
  if (!slow) return [...lines, "slow         -"];
  const count = slow.count ?? slow.statements?.length ?? 0;
  return [
    ...lines,
    `slow         ${count} over ${slow.longer_than_ms} ms`,
    ...(slow.statements ?? []).map(
      (one) => `  ${one.mean_ms} ms mean, ${one.max_ms} ms most, ${one.calls} ×  ${one.text}`,
    ),
  ];
}

async function listen(client: Client, id: string, port: number, context: Context): Promise<Server> {
  const server = createServer((socket) => {
    socket.on("error", () => socket.destroy());
    client.databases.tunnel(id).then(
      (tunnel) => {
        tunnel.on("error", () => socket.destroy());
        tunnel.once("close", () => socket.end());
        socket.once("close", () => tunnel.destroy());
        socket.pipe(tunnel).pipe(socket);
      },
      (error: unknown) => {
        context.output.say(`✗ the tunnel does not open: ${(error as Error).message}`);
        socket.destroy();
      },
    );
  });
  server.listen(port, "127.0.0.1");
  await once(server, "listening").catch((error: NodeJS.ErrnoException) => {
    throw new CliError(
      "PORT_TAKEN",
      `Port ${port} cannot be listened on: ${error.code}.`,
      "Give another --port.",
    );
  });
  return server;
}

interface Program {
  readonly name: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** Files in a folder that only this user can read. */
  readonly files: Readonly<Record<string, string>>;
  readonly install: string;
}

/** What is secret goes by environment or file, never by arguments, which every user of a machine may read. */
function programOf(
  engine: string,
  credentials: DatabaseCredentials,
  port: number,
  folder: string,
  options: ShellOptions,
): Program {
  const { host, username, password, database } = credentials;
  const ca = String((credentials as { ssl?: { ca_certificate?: string } }).ssl?.ca_certificate ?? "");
  const caPath = join(folder, "ca.pem");
  if (engine === "mysql") {
    const quoted = (text: string) => `"${text.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`;
    const lines = [
      "[client]",
      "host=127.0.0.1",
      `port=${port}`,
      `user=${quoted(username)}`,
      `password=${quoted(password)}`,
      `ssl-ca=${quoted(caPath)}`,
    ];
    return {
      name: "mariadb",
      args: [
        `--defaults-extra-file=${join(folder, "client.cnf")}`,
        ...(options.readOnly ? ["--init-command=set session transaction read only"] : []),
        ...(options.command ? ["--execute", options.command] : []),
        database,
      ],
      env: {},
      files: { "ca.pem": ca, "client.cnf": `${lines.join("\n")}\n` },
      install: "apt-get install mariadb-client",
    };
  }
  if (engine === "redis") {
    if (options.readOnly)
      throw new CliError(
        "UNSUPPORTED",
        "Redis sessions cannot be made read-only.",
        "Leave --read-only out, or use a user that may only read.",
      );
    return {
      name: "redis-cli",
      args: [
        ...[
          "-h",
          "127.0.0.1",
          "-p",
          String(port),
          "--tls",
          "--sni",
          host,
          "--cacert",
          caPath,
          "--user",
          username,
        ],
        ...(options.command ? options.command.split(/\s+/) : []),
      ],
      env: { REDISCLI_AUTH: password },
      files: { "ca.pem": ca },
      install: "apt-get install redis-tools",
    };
  }
  return {
    name: "psql",
    args: options.command ? ["--command", options.command] : [],
    env: {
      // The name is verified, the address is this end of the tunnel.
      ...{ PGHOST: host, PGHOSTADDR: "127.0.0.1", PGPORT: String(port), PGDATABASE: database },
      ...{ PGUSER: username, PGPASSWORD: password, PGSSLMODE: "verify-full", PGSSLROOTCERT: caPath },
      ...(options.readOnly ? { PGOPTIONS: "-c default_transaction_read_only=on" } : {}),
    },
    files: { "ca.pem": ca },
    install: "apt-get install postgresql-client",
  };
}

async function shell(context: Context, idOrName: string, options: ShellOptions): Promise<void> {
  await withClient(context, async (client) => {
    const { id, engine } = await client.databases.find(idOrName);
    const credentials = await client.databases.credentials(id);
    const server = await listen(client, id, 0, context);
    const folder = mkdtempSync(join(tmpdir(), "db-shell-"));
    try {
      const { port } = server.address() as AddressInfo;
      const program = programOf(engine, credentials, port, folder, options);
      for (const [name, text] of Object.entries(program.files))
        writeFileSync(join(folder, name), text, { mode: 0o600 });
      context.setExitCode(await run(program, context));
    } finally {
      server.close();
      rmSync(folder, { recursive: true, force: true });
    }
  });
}

async function run({ name, args, env, install }: Program, context: Context): Promise<number> {
  const child = spawn(name, args, { stdio: "inherit", env: { ...context.environment, ...env } });
  // The program's own: it ends a statement with it, not the session.
  const ignore = () => undefined;
  process.on("SIGINT", ignore);
  try {
    const [code] = (await once(child, "exit")) as [number | null];
    return code ?? 1;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    throw new CliError(
      "PROGRAM_MISSING",
      `${name} is not installed on this machine.`,
      `${install}; or use the tunnel command with another client.`,
    );
  } finally {
    process.off("SIGINT", ignore);
  }
}
