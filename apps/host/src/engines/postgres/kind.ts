import { randomBytes } from "node:crypto";
import { isAlive, runningServer } from "@platform/postgres";
import type { ServerKind } from "../dedicated/kind.ts";
import { backup } from "./backup.ts";
import {
  cloneCluster,
  keepCheckpointsWritable,
  prepareTemplate,
  serverSettings,
  templatePassword,
} from "./cluster.ts";
import { archiveSettings, logArchive } from "./log-archive.ts";
import { PostgresPooling } from "./pooling/index.ts";
import { createAndDropTable, prove, superuserLogin } from "./login.ts";
import { insights } from "./insights.ts";
import { migrate } from "./migrate.ts";
import { query } from "./query.ts";
import { majorUpgrade } from "./major-upgrade.ts";
import { addRole, makeRoleAndDatabase, removeRole, secureServer } from "./roles.ts";
import { binariesOf, reportVersions } from "./versions.ts";

const mib = 1024 * 1024;

/** Template of each fresh copy: its superuser password holds until the copy's own is set. */
const templateOf = new Map<string, string>();

export const postgres: ServerKind = {
  backup,
  engine: "postgresql",
  leastMemoryBytes: 64 * mib,
  stopSignals: ["SIGINT", "SIGQUIT"],
  /** Log segments are made and removed at will; up to `max_wal_size` and what one checkpoint overruns. */
  journalBytes: 384 * mib,
  quota: null,
  logArchive,
  openPooling: () => new PostgresPooling(),
  report: reportVersions,
  exactVersion: async (major) => (await binariesOf(major)).version,
  product: (version) => `PostgreSQL ${version}`,
  databaseName: () => `d_${randomBytes(8).toString("hex")}`,
  url: ({ spec, port, database }, account) => {
    const [user, password] = [account.username, account.password].map(encodeURIComponent);
    return `postgresql://${user}:${password}@${spec.hostname}:${port}/${encodeURIComponent(database)}?sslmode=require`;
  },
  template: async (folder, major) => prepareTemplate(folder, major, await binariesOf(major)),
  prepare: async (entry, template, authority) => {
    templateOf.set(entry.folders.root, template);
    await cloneCluster(template, entry.folders, entry.state, authority);
  },
  command: async (entry) => {
    if (entry.state.hasDisk) await keepCheckpointsWritable(entry.folders);
    const { postgres: program } = await binariesOf(entry.state.spec.version);
    const all = { ...serverSettings(entry.state), ...archiveSettings(entry.folders) };
    const settings = Object.entries(all).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
    // Sessions do not share the protection from the kernel's choice that the server itself gets.
    const env = { PG_OOM_ADJUST_FILE: "/proc/self/oom_score_adj", PG_OOM_ADJUST_VALUE: "0" };
    return { program, args: ["-D", entry.folders.data, ...settings], env };
  },
  running: (entry) => {
    const server = runningServer(entry.folders.data);
    return server && isAlive(server) ? { pid: server.pid, startTicks: server.startTicks } : null;
  },
  proveAdministrator: async (entry, { certificate }) => {
    const login = superuserLogin(entry.state, certificate);
    const proof = await prove(login);
    const template = templateOf.get(entry.folders.root);
    if (proof.reason !== "auth_failed" || !template) return proof;
    const password = templatePassword(template);
    const first = await prove({ ...login, password });
    if (!first.ok) return first;
    await secureServer(entry.state, certificate, password);
    templateOf.delete(entry.folders.root);
    return prove(login);
  },
  furnish: (entry, { certificate }) => makeRoleAndDatabase(entry.state, certificate),
  prove: (login, mustWrite) => prove(login, mustWrite ? createAndDropTable : undefined),
  addAccount: (entry, { certificate }, account, access) => addRole(entry.state, certificate, account, access),
  dropAccount: (entry, { certificate }, username) => removeRole(entry.state, certificate, username),
  insights: (entry, { certificate }) => insights(entry.state, certificate),
  majorUpgrade,
  migrate,
  query,
};
