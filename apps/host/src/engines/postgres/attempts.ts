import { Client, type ClientConfig } from "pg";
import type { Attempt } from "@platform/daemon/testing";
import { loginOptions } from "@platform/postgres";
import type { DatabaseCredentials } from "@platform/host-api";

/** One tenant's session, and what it was told or guessed of the other's database. */
export interface Intruder {
  readonly session: Client;
  readonly own: DatabaseCredentials;
  readonly other: DatabaseCredentials;
}

export const loginOf = (credentials: DatabaseCredentials): ClientConfig => ({
  ...loginOptions({
    host: "127.0.0.1",
    port: credentials.port,
    user: credentials.username,
    password: credentials.password,
    database: credentials.database,
    ssl: { ca: credentials.caCertificate!, servername: credentials.host },
  }),
});

const denied = / 42501 /;
const noLogin = / (28P01|28000) /;

type Statement = string | ((of: Intruder) => string);

const sql = (name: string, refused: RegExp | undefined, statement: Statement): Attempt<Intruder> => ({
  name,
  ...(refused ? { refused } : {}),
  run: async (intruder) => {
    const text = typeof statement === "string" ? statement : statement(intruder);
    const { rows } = await intruder.session.query(text);
    return rows as unknown;
  },
});

const login = (
  name: string,
  refused: RegExp,
  change: (of: Intruder) => Partial<DatabaseCredentials>,
  more: ClientConfig = {},
): Attempt<Intruder> => ({
  name,
  refused,
  run: async (intruder) => {
    const client = new Client({ ...loginOf({ ...intruder.own, ...change(intruder) }), ...more });
    client.on("error", () => undefined);
    await client.connect();
    try {
      return (await client.query("select current_user, session_user")).rows as unknown;
    } finally {
      await client.end();
    }
  },
});

const me = ({ own }: Intruder) => `"${own.username}"`;

const files: Attempt<Intruder>[] = [
  sql("COPY TO PROGRAM", denied, "copy (select 1) to program 'id > /tmp/out'"),
  sql("COPY FROM PROGRAM", denied, "copy mine from program 'cat /etc/passwd'"),
  sql("COPY TO a file", denied, "copy (select 1) to '/tmp/out'"),
  sql("COPY FROM a file", denied, "copy mine from '/etc/passwd'"),
  sql("pg_read_file", denied, "select pg_read_file('/etc/passwd')"),
  sql("pg_read_binary_file", denied, "select pg_read_binary_file('../../../state.json')"),
  sql("pg_ls_dir", denied, "select pg_ls_dir('../..')"),
  sql("pg_stat_file", denied, "select pg_stat_file('/etc/passwd')"),
  sql("pg_ls_waldir", denied, "select pg_ls_waldir()"),
  sql("lo_import", denied, "select lo_import('/etc/passwd')"),
  sql("lo_export", denied, "select lo_export(lo_create(0), '/tmp/out')"),
  sql("LOAD of a library", denied, "load '/tmp/evil.so'"),
  sql("a function in C", denied, "create function evil() returns int as '/tmp/evil.so' language c"),
  sql("a table space elsewhere", denied, "create tablespace t location '/tmp'"),
  sql(
    "an XML entity that is a file",
    undefined,
    `select xmlparse(document '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>')::text`,
  ),
];

const roles: Attempt<Intruder>[] = [
  sql("CREATE ROLE", denied, "create role other login superuser"),
  sql("ALTER ROLE to superuser", denied, (of) => `alter role ${me(of)} superuser`),
  sql("ALTER ROLE to replication", denied, (of) => `alter role ${me(of)} replication`),
  sql("the superuser's password", denied, "alter role postgres password 'x'"),
  sql("SET ROLE", denied, "set role postgres"),
  sql("SET SESSION AUTHORIZATION", denied, "set session authorization postgres"),
  sql("GRANT of pg_read_server_files", denied, (of) => `grant pg_read_server_files to ${me(of)}`),
  sql("GRANT of pg_execute_server_program", denied, (of) => `grant pg_execute_server_program to ${me(of)}`),
  sql("GRANT of the superuser", denied, (of) => `grant postgres to ${me(of)}`),
  sql("a function that is the superuser's", denied, "alter function mine() owner to postgres"),
  sql("CREATE DATABASE", denied, "create database other"),
  sql("ALTER SYSTEM", denied, "alter system set archive_command = 'id'"),
  sql("a library for each session", denied, "set session_preload_libraries = '/tmp/evil'"),
  sql("the path of libraries", denied, "set dynamic_library_path = '/tmp'"),
  sql("row security of the catalogue", denied, "update pg_authid set rolsuper = true"),
  sql("a change of pg_proc", denied, "update pg_proc set prosrc = 'x' where proname = 'now'"),
];

const catalogues: Attempt<Intruder>[] = [
  sql("pg_authid", denied, "select * from pg_authid"),
  sql("pg_shadow", denied, "select * from pg_shadow"),
  sql("pg_hba_file_rules", denied, "select * from pg_hba_file_rules"),
  sql("pg_largeobject", denied, "select * from pg_largeobject"),
  sql("names in pg_database", undefined, "select datname from pg_database"),
  sql("names in pg_roles", undefined, "select rolname, rolconfig from pg_roles"),
  sql("pg_stat_activity", undefined, "select * from pg_stat_activity"),
  sql(
    "pg_stat_ssl and addresses",
    undefined,
    "select *, inet_server_addr(), inet_server_port() from pg_stat_ssl",
  ),
  sql("settings that name files", undefined, "select name, setting from pg_settings"),
  sql(
    "the other's table by its full name",
    / 0A000 /,
    ({ other }) => `select * from "${other.database}".public.kept`,
  ),
  sql(
    "the end of others' sessions",
    denied,
    "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()",
  ),
];

const neighbours: Attempt<Intruder>[] = [
  sql("dblink", denied, "create extension dblink"),
  sql("postgres_fdw", denied, "create extension postgres_fdw"),
  sql("file_fdw", denied, "create extension file_fdw"),
  sql("an untrusted language", / (42501|0A000|58P01) /, "create extension plpython3u"),
  sql("a foreign data wrapper", denied, "create foreign data wrapper w"),
  sql(
    "a subscription to the other",
    denied,
    ({ other }) =>
      `create subscription s connection 'host=127.0.0.1 port=${other.port} user=${other.username}' publication p`,
  ),
  sql("a physical replication slot", denied, "select pg_create_physical_replication_slot('s')"),
  sql(
    "a logical replication slot",
    / (42501|55000) /,
    "select pg_create_logical_replication_slot('s', 'pgoutput')",
  ),
  sql("pg_backup_start", denied, "select pg_backup_start('b')"),
  sql("an event trigger", denied, "create event trigger e on ddl_command_end execute function mine_event()"),
  login("own credentials at the other's port", noLogin, ({ other: { port, caCertificate, host } }) => ({
    ...{ port, caCertificate, host },
  })),
  login("the other's name with the own password", noLogin, ({ own, other }) => ({
    ...other,
    password: own.password,
  })),
  login("the other's credentials at the own port", noLogin, ({ own, other }) => ({
    ...other,
    ...{ port: own.port, caCertificate: own.caCertificate, host: own.host },
  })),
  login("the other's database at the own server", / (3D000|42501) /, ({ other }) => ({
    database: other.database,
  })),
  login("the superuser with the own password", noLogin, () => ({ username: "postgres" })),
  login("the database postgres", denied, () => ({ database: "postgres" })),
  login("the database template1", denied, () => ({ database: "template1" })),
  login("a start with another role", / (42501|22023) /, () => ({}), { options: "-c role=postgres" }),
  login("a start with a library", denied, () => ({}), { options: "-c session_preload_libraries=/tmp/evil" }),
  login("a connection for replication", / (42501|28000) /, () => ({}), {
    replication: "database",
  } as ClientConfig),
  login("a connection without TLS", / 28000 /, () => ({}), { ssl: false }),
];

/** What the owner of one database tries on another, and on the machine both run on. */
export const attempts: readonly Attempt<Intruder>[] = [...files, ...roles, ...catalogues, ...neighbours];
