import { connect } from "node:net";
import { Redis } from "ioredis";
import type { Attempt } from "@platform/daemon/testing";
import type { DatabaseCredentials } from "@platform/host-api";

/** One tenant's session, and what it was told or guessed of the other's database. */
export interface Intruder {
  readonly session: Redis;
  readonly own: DatabaseCredentials;
  readonly other: DatabaseCredentials;
}

/** As an application would: ioredis with the very URL, the authority trusted. */
export async function connectWith(url: string, caCertificate: string | null): Promise<Redis> {
  let failure: Error | null = null;
  const client = new Redis(url, {
    ...{ lazyConnect: true, retryStrategy: null, maxRetriesPerRequest: 0, enableReadyCheck: false },
    tls: { ca: caCertificate! },
  });
  client.on("error", (error: Error) => (failure ??= error));
  try {
    await client.connect();
    await client.ping();
    return client;
  } catch (error) {
    client.disconnect();
    throw failure ?? error;
  }
}

const denied = /NOPERM|ERR (DEBUG|MODULE) command not allowed/;
const noLogin = /WRONGPASS|NOAUTH/;
const sandboxed = /nonexistent|nil value|global|readonly table|unsafe/i;

const command = (
  name: string,
  words: string | ((of: Intruder) => string),
  refused: RegExp | undefined = denied,
): Attempt<Intruder> => ({
  name,
  ...(refused ? { refused } : {}),
  run: (intruder) => {
    const [first, ...parts] = (typeof words === "string" ? words : words(intruder)).split(" ");
    return intruder.session.call(first!, ...parts);
  },
});
const harmless = (name: string, words: string): Attempt<Intruder> => ({
  name,
  run: ({ session }) => {
    const [first, ...parts] = words.split(" ");
    return session.call(first!, ...parts);
  },
});
const script = (
  name: string,
  text: string | ((of: Intruder) => string),
  refused: RegExp = denied,
): Attempt<Intruder> => ({
  name,
  refused,
  run: (intruder) => intruder.session.eval(typeof text === "string" ? text : text(intruder), 0),
});
const login = (
  name: string,
  url: (of: Intruder) => string,
  certificate?: (of: Intruder) => string | null,
): Attempt<Intruder> => ({
  name,
  refused: noLogin,
  run: async (intruder) => {
    const { caCertificate } = intruder.own;
    const client = await connectWith(url(intruder), certificate ? certificate(intruder) : caCertificate);
    client.disconnect();
    return "logged in";
  },
});

/** What a server that speaks TLS only says to one who does not. */
async function speakPlainly(port: number): Promise<string> {
  const socket = connect(port, "127.0.0.1", () => socket.write("PING\r\n"));
  const answer = await new Promise<string>((resolve) => {
    socket.on("data", (chunk) => resolve(chunk.toString("latin1")));
    socket.on("close", () => resolve("closed"));
    socket.on("error", () => resolve("closed"));
  });
  socket.destroy();
  if (!answer.startsWith("+PONG")) throw new Error("NOAUTH: no answer without TLS");
  return answer;
}

const commands: Attempt<Intruder>[] = [
  harmless("keys by SCAN", "SCAN 0 COUNT 1000"),
  harmless("keys by KEYS", "KEYS *"),
  harmless("a key by RANDOMKEY", "RANDOMKEY"),
  harmless("INFO of everything", "INFO everything"),
  harmless("the other databases by SELECT", "SELECT 1"),
  harmless("back to the first database", "SELECT 0"),
  harmless("channels of others", "PUBSUB CHANNELS *"),
  command("CONFIG GET", "CONFIG GET *"),
  command("the folder by CONFIG SET", "CONFIG SET dir /tmp"),
  command("the file by CONFIG SET", "CONFIG SET dbfilename evil.so"),
  command("the memory limit by CONFIG SET", "CONFIG SET maxmemory 0"),
  command("CONFIG REWRITE", "CONFIG REWRITE"),
  command("ACL LIST", "ACL LIST"),
  command("ACL SETUSER", "ACL SETUSER other on nopass ~* +@all"),
  command("more rights for oneself", ({ own }) => `ACL SETUSER ${own.username} +@all`),
  command("ACL GETUSER of the administrator", "ACL GETUSER administrator"),
  command("ACL LOAD", "ACL LOAD"),
  command("ACL SAVE", "ACL SAVE"),
  command("SAVE", "SAVE"),
  command("BGSAVE", "BGSAVE"),
  command("BGREWRITEAOF", "BGREWRITEAOF"),
  command("SHUTDOWN", "SHUTDOWN NOSAVE"),
  command("DEBUG", "DEBUG SLEEP 0"),
  command("MODULE LIST", "MODULE LIST"),
  command("MODULE LOAD", "MODULE LOAD /tmp/evil.so"),
  command("REPLICAOF the other", ({ other }) => `REPLICAOF 127.0.0.1 ${other.port}`),
  command("SLAVEOF the other", ({ other }) => `SLAVEOF 127.0.0.1 ${other.port}`),
  command("MIGRATE to the other", ({ other }) => `MIGRATE 127.0.0.1 ${other.port} kept 0 1000`),
  command("RESTORE", "RESTORE copy 0 x"),
  command("MONITOR", "MONITOR"),
  command("CLIENT LIST", "CLIENT LIST"),
  command("CLIENT KILL", "CLIENT KILL TYPE normal"),
  command("CLUSTER MEET the other", ({ other }) => `CLUSTER MEET 127.0.0.1 ${other.port}`),
  command("CLUSTER RESET", "CLUSTER RESET"),
  command("FAILOVER", "FAILOVER"),
  command("PSYNC", "PSYNC ? -1"),
  command("SYNC", "SYNC"),
  command("SWAPDB", "SWAPDB 0 1"),
  command("SLOWLOG", "SLOWLOG GET"),
  command("LATENCY", "LATENCY RESET"),
];

const scripts: Attempt<Intruder>[] = [
  script(
    "CONFIG from a script",
    "return redis.call('CONFIG', 'GET', '*')",
    /ACL|NOPERM|permission|not allowed/i,
  ),
  script("ACL from a script", "return redis.call('ACL', 'LIST')", /ACL|NOPERM|permission|not allowed/i),
  script(
    "SLAVEOF from a script",
    ({ other }) => `return redis.call('SLAVEOF', '127.0.0.1', '${other.port}')`,
    /ACL|NOPERM|permission|not allowed/i,
  ),
  script("a file by dofile", "return dofile('/etc/passwd')", sandboxed),
  script("a file by io.open", "return io.open('/etc/passwd'):read('*a')", sandboxed),
  script("a program by os.execute", "return os.execute('id')", sandboxed),
  script("a library by package.loadlib", "return package.loadlib('liblua5.1.so.0', 'luaopen_io')", sandboxed),
  script("byte code by loadstring", "return loadstring(string.dump(function() return io end))()", sandboxed),
  script("globals of other scripts", "stolen = 1 return stolen", sandboxed),
];

const at = (url: string, from: number, to: number) => url.replace(`:${from}/`, `:${to}/`);
const as = (own: DatabaseCredentials, name: string, password: string) =>
  own.url.replace(`${own.username}:${own.password}`, `${name}:${password}`);

const logins: Attempt<Intruder>[] = [
  login(
    "own credentials at the other's port",
    ({ own, other }) => at(own.url, own.port, other.port),
    ({ other }) => other.caCertificate,
  ),
  login("the other's credentials at the own port", ({ own, other }) =>
    as(own, other.username, other.password),
  ),
  login("the administrator with the own password", ({ own }) => as(own, "administrator", own.password)),
  login("the default account without a password", ({ own }) => as(own, "default", "")),
  login("the default account with the own password", ({ own }) => as(own, "default", own.password)),
  login("a wrong password", ({ own }) => as(own, own.username, "wrong")),
  { name: "a connection without TLS", refused: noLogin, run: ({ other }) => speakPlainly(other.port) },
];

/** What the owner of one database tries on another, and on the machine both run on. */
export const attempts: readonly Attempt<Intruder>[] = [...commands, ...scripts, ...logins];
