import { randomBytes } from "node:crypto";
import { rmSync } from "node:fs";
import type { ServerKind } from "../dedicated/kind.ts";
import { findServer } from "../dedicated/running.ts";
import { backup } from "./backup.ts";
import { accountStatements, administrator, assertPlain, quotaStatements } from "./accounts.ts";
import {
  connectionsOf,
  copyTemplate,
  firstStatements,
  makeTemplate,
  serverArguments,
} from "./data-folder.ts";
import { administratorLogin, prove, rowsOf, withLogin } from "./login.ts";
import { programsOf, report } from "./programs.ts";
import { query } from "./query.ts";

const mib = 1024 * 1024;

const status = (name: string) =>
  `(select variable_value from information_schema.global_status where variable_name = '${name}')`;

export const mariadb: ServerKind = {
  backup,
  engine: "mysql",
  leastMemoryBytes: 128 * mib,
  stopSignals: ["SIGTERM"],
  /** The redo log has its whole size from the start and is written in place. */
  journalBytes: null,
  quota: {
    reserveBytes: () => 64 * mib,
    restrict: async (entry, authority, isRestricted) => {
      const { username, oldAccounts, users } = entry.state;
      const owners = users.filter(({ access }) => access === "owner");
      await withLogin(administratorLogin(entry, authority), async (connection) => {
        for (const account of [{ username }, ...oldAccounts, ...owners])
          for (const statement of quotaStatements(entry.state, account.username, isRestricted))
            await connection.query(statement);
      });
    },
  },
  report,
  exactVersion: async (version) => (await programsOf(version)).version,
  product: (version) => `MySQL-compatible (MariaDB ${version})`,
  databaseName: () => `d_${randomBytes(8).toString("hex")}`,
  url: ({ spec, port, database }, account) => {
    const [user, password] = [account.username, account.password].map(encodeURIComponent);
    // The server refuses what is not encrypted; clients take the setting as JSON.
    const ssl = encodeURIComponent(JSON.stringify({ rejectUnauthorized: true }));
    return `mysql://${user}:${password}@${spec.hostname}:${port}/${encodeURIComponent(database)}?ssl=${ssl}`;
  },
  template: async (folder, version) => makeTemplate(folder, version, await programsOf(version)),
  prepare: copyTemplate,
  command: async (entry) => ({
    program: (await programsOf(entry.state.spec.version)).server,
    args: serverArguments(entry),
  }),
  running: ({ folders }) => findServer(["mariadbd"], `--datadir=${folders.data}`),
  proveAdministrator: (entry, authority) => prove(administratorLogin(entry, authority)),
  furnish: async (entry) => rmSync(firstStatements(entry), { force: true }),
  prove,
  addAccount: async (entry, authority, account, access) => {
    const connections = connectionsOf(entry.state.spec.memoryBytes);
    await withLogin(administratorLogin(entry, authority), async (connection) => {
      for (const statement of accountStatements(entry.state, account, access, connections))
        await connection.query(statement);
    });
  },
  dropAccount: async (entry, authority, username) => {
    const name = `'${assertPlain(username)}'@'%'`;
    await withLogin(administratorLogin(entry, authority), async (connection) => {
      const known = await rowsOf(connection, "select 1 from mysql.global_priv where User = ?", [username]);
      if (known.length === 0) return;
      await connection.query(`alter user ${name} account lock`);
      await connection.query(`kill user '${assertPlain(username)}'`);
      const definer = `${username}@%`;
      const [bound] = await rowsOf(
        connection,
        `select (select count(*) from information_schema.views where definer = ?)
              + (select count(*) from information_schema.routines where definer = ?)
              + (select count(*) from information_schema.triggers where definer = ?)
              + (select count(*) from information_schema.events where definer = ?) as count`,
        [definer, definer, definer, definer],
      );
      // Views and routines run by the rights of who made them, so that account stays, without a way in.
      if (Number(bound?.["count"]) === 0) await connection.query(`drop user ${name}`);
    });
  },
  query,
  insights: (entry, authority) =>
    withLogin(administratorLogin(entry, authority), async (connection) => {
      const [row] = await rowsOf(
        connection,
        `select (select count(*) from information_schema.processlist
                 where user not in ('${administrator}', 'system user', 'event_scheduler')) as connections,
                ${status("UPTIME")} as uptime, ${status("SLOW_QUERIES")} as slow,
                1 - ${status("INNODB_BUFFER_POOL_READS")} / nullif(${status("INNODB_BUFFER_POOL_READ_REQUESTS")}, 0) as hits,
                @@global.long_query_time as longer`,
      );
      const number = (name: string) => Number(row?.[name] ?? 0);
      return {
        ...{ connections: number("connections"), uptimeSec: number("uptime") },
        cacheHitRatio: row?.["hits"] == null ? null : Math.min(1, Math.max(0, number("hits"))),
        // Their texts would be kept with the values in them.
        slowQueries: { longerThanMs: number("longer") * 1000, count: number("slow"), statements: null },
      };
    }),
};
