import type { ServerKind } from "../dedicated/kind.ts";
import { findServer } from "../dedicated/running.ts";
import { backup } from "./backup.ts";
import { administratorLogin, infoOf, prove, withLogin } from "./login.ts";
import { programsOf, report } from "./programs.ts";
import { quota } from "./quota.ts";
import { rules, settingsFile, writeFirstFiles, writeSettings, maxConnections } from "./settings.ts";

const mib = 1024 * 1024;

export const redis: ServerKind = {
  backup,
  engine: "redis",
  leastMemoryBytes: 32 * mib,
  stopSignals: ["SIGTERM"],
  journalBytes: null,
  quota,
  report,
  exactVersion: async (version) => (await programsOf(version)).version,
  product: (version) => `Redis ${version}`,
  databaseName: () => "0",
  url: ({ spec, port, database }, account) => {
    const [user, password] = [account.username, account.password].map(encodeURIComponent);
    return `rediss://${user}:${password}@${spec.hostname}:${port}/${database}`;
  },
  template: (folder) => Promise.resolve(folder),
  prepare: (entry, _template, authority) => writeFirstFiles(entry, authority),
  command: async (entry) => {
    const { program, argv0 } = await programsOf(entry.state.spec.version);
    writeSettings(entry);
    return { program, argv0, args: [settingsFile(entry)] };
  },
  running: (entry) => findServer(["redis-server"], settingsFile(entry)),
  proveAdministrator: (entry, authority) => prove(administratorLogin(entry, authority)),
  furnish: async () => undefined,
  prove,
  // Its word for that comes before the encryption, where no client hears it.
  silentAt: ({ spec }) => maxConnections(spec.memoryBytes),
  addAccount: async (entry, authority, account, access) => {
    await withLogin(administratorLogin(entry, authority), async (client) => {
      await client.call(
        "ACL",
        "SETUSER",
        account.username,
        ...rules(account, access, entry.state.restricted),
      );
      await client.call("ACL", "SAVE");
    });
  },
  // The server closes the connections of an account that it forgets.
  dropAccount: async (entry, authority, username) => {
    await withLogin(administratorLogin(entry, authority), async (client) => {
      await client.call("ACL", "DELUSER", username);
      await client.call("ACL", "SAVE");
    });
  },
  insights: (entry, authority) =>
    withLogin(administratorLogin(entry, authority), async (client) => {
      const clients = await infoOf(client, "clients");
      const server = await infoOf(client, "server");
      const stats = await infoOf(client, "stats");
      const [hits, misses] = ["keyspace_hits", "keyspace_misses"].map((name) => Number(stats.get(name)));
      const slow = (await client.call("slowlog", "get", "128")) as [number, number, number, string[]][];
      return {
        connections: Number(clients.get("connected_clients")) - 1,
        uptimeSec: Number(server.get("uptime_in_seconds")),
        cacheHitRatio: hits! + misses! === 0 ? null : hits! / (hits! + misses!),
        slowQueries: { longerThanMs: 10, count: slow.length, statements: slowCommands(slow) },
      };
    }),
};

/** By command: what follows its name are keys and values. */
function slowCommands(entries: readonly [number, number, number, string[]][]) {
  const byName = Map.groupBy(entries, ([, , , words]) => String(words[0]).toUpperCase());
  return [...byName].map(([text, ones]) => {
    const times = ones.map(([, , micros]) => micros / 1000);
    const sum = times.reduce((all, one) => all + one, 0);
    return { text, calls: ones.length, meanMs: sum / ones.length, maxMs: Math.max(...times) };
  });
}
