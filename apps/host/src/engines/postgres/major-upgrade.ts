import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { escapeIdentifier, escapeLiteral, type Client } from "pg";
import { HostError } from "@platform/host-api";
import { serverEnvironment } from "@platform/postgres";
import type { Authority } from "../dedicated/authority.ts";
import { loginOf, type Entry } from "../dedicated/entry.ts";
import type { Login } from "../dedicated/login.ts";
import type { MajorUpgrade } from "../dedicated/kind.ts";
import { clientPrograms } from "./client-programs.ts";
import { superuserLogin, withLogin } from "./login.ts";
import { withPlainDoor } from "./plain-door.ts";
import { addRole, removeRole } from "./roles.ts";
import { binariesOf } from "./versions.ts";

/** Longer than this and an upgrade is given up, milliseconds. */
const timeoutMs = 6 * 60 * 60_000;
const mostStderr = 4_000;

const administrator = ({ state }: Entry, { certificate }: Authority) =>
  superuserLogin(state, certificate, state.database);

/** Every account that was handed out, and the owner of everything. */
const rolesOf = ({ state }: Entry) => [
  ...new Set([
    ...[state.owner, state.username],
    ...[...state.oldAccounts, ...state.users].map(({ username }) => username),
  ]),
];

/** Nobody but the platform logs in, and whoever was in is sent away. */
async function close(entry: Entry, authority: Authority): Promise<void> {
  await withLogin(administrator(entry, authority), async (client) => {
    for (const role of rolesOf(entry)) await client.query(`alter role ${escapeIdentifier(role)} nologin`);
    await client.query(
      "select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = any($1) and pid <> pg_backend_pid()",
      [rolesOf(entry)],
    );
  });
}

/** Exactly the accounts of the state log in: those that were dropped meanwhile do not come back. */
async function open(entry: Entry, authority: Authority): Promise<void> {
  const { state } = entry;
  const { certificate } = authority;
  for (const account of [state, ...state.oldAccounts]) await addRole(state, certificate, account, "owner");
  for (const account of state.users) await addRole(state, certificate, account, account.access);
  const known = rolesOf(entry);
  const names = await withLogin(administrator(entry, authority), async (client) => {
    const { rows } = await client.query<{ name: string }>(
      "select rolname as name from pg_roles where not rolsuper and rolname !~ '^pg_'",
    );
    return rows.map(({ name }) => name);
  });
  const stale = names.filter((name) => !known.includes(name));
  for (const name of stale) await removeRole(state, certificate, name);
  const isHandedOut = [state, ...state.oldAccounts].some(({ username }) => username === state.owner);
  if (!isHandedOut) await removeRole(state, certificate, state.owner);
}

/** Content of tables and counts of the rest, read as plain bytes: nothing that a tenant defined runs with the platform's rights. */
async function contentOf(client: Client): Promise<Map<string, string>> {
  await client.query("set search_path = ''; set row_security = off; set default_transaction_read_only = on");
  const content = new Map<string, string>();
  const { rows: kinds } = await client.query<{ kind: string; count: string }>(
    `with own as (select oid from pg_catalog.pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema'),
       -- What an extension brings may be more in a newer version.
       brought as (select classid, objid from pg_catalog.pg_depend where deptype = 'e')
     select relkind::text as kind, count(*) from pg_catalog.pg_class c where relnamespace in (select oid from own) and relkind <> 't'
       and not exists (select 1 from brought where classid = 'pg_catalog.pg_class'::regclass and objid = c.oid) group by 1
     union all select 'function', count(*) from pg_catalog.pg_proc p where pronamespace in (select oid from own)
       and not exists (select 1 from brought where classid = 'pg_catalog.pg_proc'::regclass and objid = p.oid)
     union all select 'trigger', count(*) from pg_catalog.pg_trigger where not tgisinternal
     union all select 'policy', count(*) from pg_catalog.pg_policy
     union all select 'constraint ' || contype::text, count(*) from pg_catalog.pg_constraint
       where connamespace in (select oid from own) and contype <> 'n' group by 1`,
  );
  for (const { kind, count } of kinds) content.set(`objects of kind ${kind}`, count);
  const { rows: relations } = await client.query<{ schema: string; name: string; kind: string }>(
    `select n.nspname as schema, c.relname as name, c.relkind::text as kind
     from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where n.nspname !~ '^pg_' and n.nspname <> 'information_schema' and c.relkind in ('r', 'S')`,
  );
  for (const { schema, name, kind } of relations) {
    const relation = `${escapeIdentifier(schema)}.${escapeIdentifier(name)}`;
    const summary =
      kind === "S"
        ? "last_value::pg_catalog.text || is_called::pg_catalog.text"
        : `pg_catalog.count(*) || ' rows, ' || coalesce(pg_catalog.sum(pg_catalog.hashtextextended(
             pg_catalog.textin(pg_catalog.record_out(t)), 0)::pg_catalog.numeric), 0)`;
    const { rows } = await client.query<{ summary: string }>(
      `select ${summary} as summary from ${relation} t`,
    );
    content.set(`${schema}.${name}`, rows[0]!.summary);
  }
  const { rows: objects } = await client.query<{ count: string }>(
    "select count(*) from pg_catalog.pg_largeobject_metadata",
  );
  content.set("large objects", objects[0]!.count);
  return content;
}

/** Settings whose values are lists, which a quoted value would turn into one name. */
const lists = new Set([
  "search_path",
  "temp_tablespaces",
  "local_preload_libraries",
  "session_preload_libraries",
]);

async function carrySettings(from: Login, to: Login, database: string): Promise<void> {
  const { rows } = await withLogin(from, (client) =>
    client.query<{ setting: string }>(
      `select unnest(setconfig) as setting from pg_db_role_setting
       where setrole = 0 and setdatabase = (select oid from pg_database where datname = $1)`,
      [database],
    ),
  );
  await withLogin(to, async (client) => {
    for (const { setting } of rows) {
      const name = setting.slice(0, setting.indexOf("="));
      const text = setting.slice(name.length + 1);
      const value = lists.has(name) ? text : escapeLiteral(text);
      await client.query(
        `alter database ${escapeIdentifier(database)} set ${escapeIdentifier(name)} to ${value}`,
      );
    }
  });
}

/** What a program says at its end; the newest lines of a long text. */
function listen(child: ReturnType<typeof spawn>): { text: () => string; ended: Promise<number | string> } {
  let text = "";
  child.stderr!.setEncoding("utf8").on("data", (part: string) => (text = (text + part).slice(-mostStderr)));
  const ended = new Promise<number | string>((resolve) => {
    child.once("error", (error) => resolve(error.message));
    child.once("close", (code, signal) => resolve(code ?? signal ?? "ended"));
  });
  return { text: () => text.trim(), ended };
}

/** The dump is read by the administrator, and loaded by the owner: what a tenant defined runs as the tenant. */
async function pipe(from: Login, to: Login, major: number, signal: AbortSignal): Promise<void> {
  const { dump, restore } = await clientPrograms(major);
  await withPlainDoor(from, (source) =>
    withPlainDoor(to, async (target) => {
      const environment = ({ username, password, database }: Login, folder: string) => {
        // Arguments and environments can be read by others of the machine's users, this file cannot.
        const PGPASSFILE = join(folder, "login");
        const plain = password.replace(/[\\:]/g, "\\$&");
        writeFileSync(PGPASSFILE, `*:*:*:*:${plain}\n`, { mode: 0o600 });
        return {
          ...serverEnvironment,
          ...{ PGHOST: folder, PGPORT: "5432", PGUSER: username, PGDATABASE: database, PGPASSFILE },
        };
      };
      const limits = { signal: AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]) };
      const writer = spawn(dump, ["--format=custom", "--compress=0", "--no-owner", "--no-password"], {
        ...{ env: environment(from, source), stdio: ["ignore", "pipe", "pipe"] },
        ...limits,
      });
      const reader = spawn(
        restore,
        [
          ...["--exit-on-error", "--single-transaction", "--no-owner", "--no-password"],
          // An owner that is held to its policies refreshes its views under them, here as everywhere.
          "--enable-row-security",
          ...["--dbname", to.database],
        ],
        { env: environment(to, target), stdio: ["pipe", "ignore", "pipe"], ...limits },
      );
      const [said, heard] = [listen(writer), listen(reader)];
      reader.stdin!.on("error", () => undefined); // Its status says why it reads no more.
      writer.stdout!.pipe(reader.stdin!);
      const [dumped, loaded] = await Promise.all([said.ended, heard.ended]);
      signal.throwIfAborted();
      if (dumped === 0 && loaded === 0) return;
      // When one ends, so does the other, for it.
      const isWriter = dumped !== 0 && dumped !== "SIGPIPE" && !/broken pipe/i.test(said.text());
      const [who, text] = isWriter ? ["dumped", said.text()] : ["loaded", heard.text()];
      throw new HostError(
        "INVALID",
        422,
        `The database could not be ${who}: ${text.slice(-1_000)}. It stays on its version, as it was.`,
        { reason: "upgrade_failed" },
      );
    }),
  );
}

/** @throws HostError `INVALID` with what differs */
async function assertSameContent(from: Login, to: Login): Promise<void> {
  const [before, after] = await Promise.all(
    [from, to].map((login) => withLogin(login, contentOf, timeoutMs)),
  );
  const names = new Set([...before!.keys(), ...after!.keys()]);
  const different = [...names].filter((name) => before!.get(name) !== after!.get(name));
  if (different.length === 0) return;
  const shown = different
    .slice(0, 3)
    .map((name) => `${name} (${before!.get(name) ?? "none"} became ${after!.get(name) ?? "none"})`);
  throw new HostError(
    "INVALID",
    422,
    `After the load ${different.length} of ${names.size} counts differ: ${shown.join(", ")}. The database stays on its version, as it was.`,
    { reason: "upgrade_differs" },
  );
}

export const majorUpgrade: MajorUpgrade = {
  close,
  open,
  async assertPossible(from, to) {
    if (Number(to) > Number(from)) {
      await binariesOf(to);
      await clientPrograms(Number(from));
      return;
    }
    throw new HostError("INVALID", 422, `PostgreSQL ${to} is not newer than ${from}. Name a newer version.`, {
      reason: "version_not_newer",
    });
  },
  async carry(from, to, authority, signal) {
    const [source, target] = [administrator(from, authority), administrator(to, authority)];
    const major = Number(from.state.spec.version);
    for (const account of to.state.users)
      await addRole(to.state, authority.certificate, account, account.access);
    await pipe(
      source,
      loginOf(to, authority, { username: to.state.owner, password: to.state.password }),
      major,
      signal,
    );
    await carrySettings(source, target, from.state.database);
    await withLogin(target, (client) => client.query("analyze"), timeoutMs);
    await assertSameContent(source, target);
  },
};
