import { createConnection, type Connection } from "mysql2/promise";
import type { Attempt } from "@platform/daemon/testing";
import type { DatabaseCredentials } from "@platform/host-api";

/** One tenant's session, and what it was told or guessed of the other's database. */
export interface Intruder {
  readonly session: Connection;
  readonly own: DatabaseCredentials;
  readonly other: DatabaseCredentials;
}

/** As an application would: mysql2 with the very URL, the authority trusted. */
export async function connectWith({ url, caCertificate }: DatabaseCredentials): Promise<Connection> {
  const parsed = new URL(url);
  const ssl = JSON.parse(parsed.searchParams.get("ssl") ?? "null") as object;
  parsed.search = "";
  const tls = caCertificate === null ? {} : { ssl: { ...ssl, ca: caCertificate } };
  const connection = await createConnection({ uri: parsed.href, ...tls });
  connection.on("error", () => undefined);
  return connection;
}

/** Access denied to a database, a table, a routine or a privilege; a switch of the server; no such thing. */
const denied = / ER_\w*(DENIED|NOT_GRANTED|PRIVILEGE|OPTION_PREVENTS|CANNOT_USER|INVALID_ROLE)\w* /;
const noLogin =
  / (ER_ACCESS_DENIED\w*|ER_DBACCESS_DENIED_ERROR|ER_SECURE_TRANSPORT_REQUIRED|ER_ACCOUNT_HAS_BEEN_LOCKED) /;

type Statement = string | ((of: Intruder) => string);

const sql = (name: string, refused: RegExp | undefined, statement: Statement): Attempt<Intruder> => ({
  name,
  ...(refused ? { refused } : {}),
  run: async (intruder) => {
    const [rows] = await intruder.session.query(
      typeof statement === "string" ? statement : statement(intruder),
    );
    return JSON.parse(
      JSON.stringify(rows, (_, value: unknown) => (value instanceof Buffer ? String(value) : value)),
    ) as unknown;
  },
});

const login = (
  name: string,
  change: (url: string, of: Intruder) => string,
  certificate?: (of: Intruder) => string | null,
): Attempt<Intruder> => ({
  name,
  refused: noLogin,
  run: async (intruder) => {
    const { own } = intruder;
    const caCertificate = certificate ? certificate(intruder) : own.caCertificate;
    const connection = await connectWith({ ...own, url: change(own.url, intruder), caCertificate });
    try {
      return (await connection.query("select current_user()"))[0];
    } finally {
      connection.destroy();
    }
  },
});

const files: Attempt<Intruder>[] = [
  sql("LOAD_FILE of passwords", undefined, "select load_file('/etc/passwd') as text"),
  sql("LOAD_FILE of the server's tables", undefined, "select load_file('mysql/global_priv.MAD') as text"),
  sql("INTO OUTFILE", denied, "select 1 into outfile '/tmp/out'"),
  sql("INTO DUMPFILE", denied, "select 1 into dumpfile '/tmp/out.so'"),
  sql("LOAD DATA INFILE", denied, "load data infile '/etc/passwd' into table mine"),
  sql(
    "LOAD DATA LOCAL INFILE",
    / (ER_\w+|LOCAL_INFILE\w*|undefined) /,
    "load data local infile '/etc/passwd' into table mine",
  ),
  sql("LOAD XML", denied, "load xml infile '/etc/passwd' into table mine"),
  sql(
    "a table with its data elsewhere",
    denied,
    "create or replace table elsewhere (n int) engine=aria data directory='/tmp'",
  ),
  sql("the slow log into a file", denied, "set global slow_query_log_file = '/tmp/out.php'"),
  sql("the general log", denied, "set global general_log = 1"),
  sql("the import of a foreign table space", / ER_\w+ /, "alter table mine import tablespace"),
];

const rights: Attempt<Intruder>[] = [
  sql("mysql.user", denied, "select * from mysql.user"),
  sql("mysql.global_priv", denied, "select * from mysql.global_priv"),
  sql("mysql.db", denied, "select * from mysql.db"),
  sql("a change of mysql.global_priv", denied, "update mysql.global_priv set priv = '{}'"),
  sql("mysql.proc", denied, "insert into mysql.proc values ()"),
  sql("mysql.func", denied, "insert into mysql.func values ('f', 0, 'evil.so', 'function')"),
  sql("mysql.plugin", denied, "insert into mysql.plugin values ('f', 'evil.so')"),
  sql("mysql.servers", denied, "select * from mysql.servers"),
  sql("USE mysql", denied, "use mysql"),
  sql("CREATE USER", denied, "create user other identified by 'x'"),
  sql("GRANT of everything", denied, ({ own }) => `grant all on *.* to '${own.username}'@'%'`),
  sql("GRANT of FILE", denied, ({ own }) => `grant file on *.* to '${own.username}'@'%'`),
  sql("GRANT of a proxy", denied, ({ own }) => `grant proxy on administrator to '${own.username}'@'%'`),
  sql("SET ROLE", /Invalid role/, "set role administrator"),
  sql(
    "SET PASSWORD of the administrator",
    denied,
    "set password for 'administrator'@'127.0.0.1' = password('x')",
  ),
  sql("ALTER USER of the administrator", denied, "alter user 'administrator'@'127.0.0.1' identified by 'x'"),
  sql("a view with another definer", denied, "create definer='administrator'@'127.0.0.1' view v as select 1"),
  sql(
    "a procedure with another definer",
    denied,
    "create definer='administrator'@'127.0.0.1' procedure p() select 1",
  ),
  sql(
    "a trigger with another definer",
    denied,
    "create definer='administrator'@'127.0.0.1' trigger g before insert on mine for each row set @a = 1",
  ),
  sql(
    "an event with another definer",
    denied,
    "create definer='administrator'@'127.0.0.1' event e on schedule every 1 day do select 1",
  ),
];

const server: Attempt<Intruder>[] = [
  sql(
    "a function of a library",
    / ER_\w+ /,
    "create function sys_exec returns int soname 'lib_mysqludf_sys.so'",
  ),
  sql("INSTALL SONAME", denied, "install soname 'ha_connect'"),
  sql("INSTALL PLUGIN", denied, "install plugin federated soname 'ha_federatedx'"),
  sql(
    "a table of the CONNECT engine",
    / ER_UNKNOWN_STORAGE_ENGINE /,
    "create table c (n int) engine=connect table_type=csv file_name='/etc/passwd'",
  ),
  sql(
    "a federated table at the other's port",
    / ER_UNKNOWN_STORAGE_ENGINE /,
    ({ other }) =>
      `create table c (n int) engine=federated connection='mysql://x:y@127.0.0.1:${other.port}/${other.database}/kept'`,
  ),
  sql(
    "CREATE SERVER",
    denied,
    ({ other }) =>
      `create server s foreign data wrapper mysql options (host '127.0.0.1', port ${other.port})`,
  ),
  sql(
    "CHANGE MASTER",
    denied,
    ({ other }) => `change master to master_host='127.0.0.1', master_port=${other.port}`,
  ),
  sql("SHOW MASTER STATUS", denied, "show master status"),
  sql("SET GLOBAL", denied, "set global max_connections = 1000"),
  sql("the end of read-only by a session", denied, "set global read_only = 0"),
  sql("KILL of another's thread", / ER_\w+ /, "kill 1"),
  sql("SHUTDOWN", denied, "shutdown"),
  sql("FLUSH TABLES", denied, "flush tables with read lock"),
  sql("CREATE DATABASE", denied, "create database other"),
  sql("a database of a like name", denied, ({ own }) => `create database ${own.database.replace("_", "x")}`),
  sql("names of databases", undefined, "select * from information_schema.schemata"),
  sql("names of accounts", undefined, "select * from information_schema.user_privileges"),
  sql("what runs on the server", undefined, "select * from information_schema.processlist"),
  sql("tables of InnoDB", denied, "select * from information_schema.innodb_sys_tables"),
  sql(
    "the other's table by its full name",
    denied,
    ({ other }) => `select * from \`${other.database}\`.kept`,
  ),
];

const at = (url: string, from: number, to: number) => url.replace(`:${from}/`, `:${to}/`);

const logins: Attempt<Intruder>[] = [
  login(
    "own credentials at the other's port",
    (url, { own, other }) => at(url, own.port, other.port),
    ({ other }) => other.caCertificate,
  ),
  login("the other's credentials at the own port", (_, { own, other }) =>
    at(other.url, other.port, own.port),
  ),
  login("the administrator with the own password", (url, { own }) =>
    url.replace(own.username, "administrator"),
  ),
  login("root with the own password", (url, { own }) => url.replace(own.username, "root")),
  login("root without a password", (url, { own }) => url.replace(`${own.username}:${own.password}`, "root:")),
  login("the account of the server's own views", (url, { own }) => url.replace(own.username, "mariadb.sys")),
  login("nobody without a password", (url, { own }) => url.replace(`${own.username}:${own.password}`, ":")),
  login("the database mysql", (url, { own }) => url.replace(`/${own.database}`, "/mysql")),
  login(
    "a connection without TLS",
    (url) => url,
    () => null,
  ),
];

/** What the owner of one database tries on another, and on the machine both run on. */
export const attempts: readonly Attempt<Intruder>[] = [...files, ...rights, ...server, ...logins];
