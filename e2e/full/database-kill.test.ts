import assert from "node:assert/strict";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { openSession, Writer, type Credentials, type Engine } from "./database-kill/writer.ts";
import { Refused } from "./kill/api.ts";
import { remnants } from "./kill/machine.ts";
import { makeFolders, removeFolders, Server } from "./kill/server.ts";
import { waitFor } from "./kill/wait.ts";

/** Writes that have to be acknowledged while everything is being killed. */
const wanted = Number(process.env["ACKNOWLEDGED"] ?? 1_000);
const settleMs = 120_000;

interface Row {
  readonly id: string;
  readonly name: string;
  readonly state: string;
  readonly reason: string | null;
  readonly rotation: unknown;
}
interface Backup {
  readonly id: string;
  readonly state: string;
  readonly reason: string | null;
  readonly restored_ok_at: string | null;
  readonly size_bytes: number | null;
}

const engines: { engine: Engine; memory_mb: number; folder: string }[] = [
  { engine: "postgresql", memory_mb: 128, folder: "postgres" },
  { engine: "redis", memory_mb: 128, folder: "redis" },
  { engine: "mysql", memory_mb: 256, folder: "mariadb" },
];

describe("databases whose server, host or control plane is killed at any moment", () => {
  let server: Server;
  before(async () => {
    server = await Server.start({ ...makeFolders(), settings: { CANARY_EVERY_MS: "500" } });
  });
  after(() => removeFolders(server.folders, server));

  /** Bytes that the object store holds, and those that the databases' backups say they have. */
  const stored = () => {
    const blobs = join(server.folders.data, "objects", "blobs");
    const files = readdirSync(blobs, { recursive: true, withFileTypes: true }).filter((one) => one.isFile());
    return files.reduce((sum, one) => sum + statSync(join(one.parentPath, one.name)).size, 0);
  };
  const known: string[] = [];
  const told = async () => {
    const all = await Promise.all(
      known.map((id) => server.api.get<Backup[]>(`/databases/${id}/backups?limit=100`)),
    );
    return all
      .flat()
      .filter(({ state }) => state !== "failed")
      .reduce((sum, { size_bytes }) => sum + (size_bytes ?? 0), 0);
  };

  for (const { engine, memory_mb, folder } of engines)
    test(`${engine}: what was acknowledged is there, and nothing is half-made, doubled or left over`, async (t) => {
      const { api } = server;
      const at = (id: string) => `/databases/${id}`;
      const size = { engine, memory_mb, storage_mb: 512 };
      const databases = async () =>
        (await api.get<Row[]>("/databases?limit=100")).filter((row) => row.state !== "deleted");
      const isRunning = (id: string, more: (row: Row) => boolean = () => true) =>
        waitFor(
          "the database to run",
          async () => {
            const row = await api.get<Row>(at(id));
            assert.notEqual(row.state, "failed", JSON.stringify(row));
            return row.state === "running" && more(row) && row;
          },
          settleMs,
          100,
        );
      const credentials = (id: string) => api.get<Credentials>(`${at(id)}/credentials`);
      const numbersIn = async (id: string) => {
        const session = await openSession(engine, await credentials(id));
        return session.numbers().finally(() => session.end());
      };
      const home = join(server.folders.data, "host/engines", folder, "databases");
      const uids = new Set<number>();
      const folders = () =>
        readdirSync(home).filter((name) => {
          const { uid } = JSON.parse(readFileSync(join(home, name, "state.json"), "utf8")) as {
            uid: number | null;
          };
          if (uid !== null) uids.add(uid);
          return true;
        });

      let count = 0;
      /** Does the work while the program dies at the point, and sees that it did. */
      const killedAt = async <T>(point: string, work: (key: string) => Promise<T>): Promise<T> => {
        server.arm(point);
        const done = await work(`${engine}-${++count}`);
        await waitFor(`${point} to be passed`, () => !server.isArmed(point), settleMs);
        return done;
      };
      const programDies = (name: string) => {
        const program = server.program(name);
        if (program) process.kill(program.pid, "SIGKILL");
      };

      const first = await api
        .post<Row>("/databases", { ...size, name: `${engine}-kept` }, `${engine}-kept`)
        .catch((error: unknown) => {
          if (error instanceof Refused && error.status === 503) return null;
          throw error;
        });
      if (!first) return t.skip(`this machine has no ${engine}`);
      const { id } = await isRunning(first.id);
      let login = await credentials(id);
      const writer = new Writer(engine, async () => login);
      const goesOn = () => {
        const reached = writer.acknowledged.size + 20;
        return waitFor(
          "writes to be acknowledged again",
          () => writer.acknowledged.size >= reached,
          settleMs,
        );
      };
      await goesOn();

      for (const point of [
        "control-plane.database.claimed",
        `host.${engine}.after-clone`,
        `host.${engine}.after-start`,
        `host.${engine}.after-role`,
        `host.${engine}.before-state`,
        "host.database.before-answer",
        "control-plane.database.before-probe",
      ]) {
        const made = await killedAt(point, async (key) => {
          const row = await api.post<Row>("/databases", { ...size, name: key }, key);
          return isRunning(row.id);
        });
        assert.equal((await numbersIn(made.id).catch(() => new Set())).size, 0, point);
        assert.equal((await databases()).filter(({ name }) => name === made.name).length, 1, point);
        await api.delete(at(made.id));
        assert.deepEqual(
          (await databases()).map((row) => row.id),
          [id],
          point,
        );
        assert.deepEqual(folders(), [`db-${id}`], point);
      }
      await goesOn();

      const backups = () => api.get<Backup[]>(`${at(id)}/backups`);
      const isProved = (backupId: string) =>
        waitFor(
          "the backup to be proved by a restore",
          async () => (await backups()).find((one) => one.id === backupId && one.restored_ok_at !== null),
          settleMs,
          100,
        );
      let kept: Backup | null = null;
      let atBackup = new Set<number>();
      for (const point of [
        "control-plane.backup.running",
        "control-plane.backup.stored",
        `host.${engine}.after-unpack`,
      ]) {
        atBackup = new Set(writer.acknowledged);
        kept = await killedAt(point, async (key) =>
          isProved((await api.post<Backup>(`${at(id)}/backups`, {}, key)).id),
        );
      }
      for (const program of ["host", "control-plane"]) {
        const { id: backupId } = await api.post<Backup>(`${at(id)}/backups`, {}, `${engine}-${++count}`);
        programDies(program);
        const ended = await waitFor(
          "the backup to end",
          async () =>
            (await backups()).find(
              (one) => one.id === backupId && (one.restored_ok_at || one.state === "failed"),
            ),
          settleMs,
          100,
        );
        assert.ok(
          ended.restored_ok_at !== null || ended.reason !== null,
          "a backup is proved or says why not",
        );
      }
      await goesOn();

      for (const point of [
        `host.${engine}.after-unpack`,
        `host.${engine}.restored`,
        "control-plane.database.claimed",
      ]) {
        const copy = await killedAt(point, async (key) => {
          const made = await api.post<{ database_id: string }>(
            `${at(id)}/restores`,
            { backup_id: kept!.id, name: key },
            key,
          );
          return isRunning(made.database_id);
        });
        const there = await numbersIn(copy.id);
        assert.deepEqual(
          [...atBackup].filter((number) => !there.has(number)),
          [],
          point,
        );
        await api.delete(at(copy.id));
        assert.deepEqual(folders(), [`db-${id}`], point);
      }

      for (const point of [
        "control-plane.database.rotation-noted",
        `host.${engine}.rotation-noted`,
        "control-plane.database.rotation-handed-over",
      ]) {
        const before = login;
        await killedAt(point, (key) => api.post(`${at(id)}/rotate`, {}, key));
        await isRunning(id, (row) => row.rotation === null);
        login = await credentials(id);
        assert.notEqual(login.password, before.password, point);
        await assert.rejects(openSession(engine, before), `${point}: the old password is refused`);
        await goesOn();
      }

      for (const victim of ["server", "server", "host", "control-plane", "server"]) {
        if (victim === "server")
          for (const pid of serversBelow(join(home, `db-${id}`))) process.kill(pid, "SIGKILL");
        else programDies(victim);
        await goesOn();
      }
      await waitFor(`${wanted} acknowledged writes`, () => writer.acknowledged.size >= wanted, 20 * 60_000);
      await writer.stop();
      await isRunning(id);
      const there = await numbersIn(id);
      assert.deepEqual(
        [...writer.acknowledged].filter((number) => !there.has(number)),
        [],
      );
      t.diagnostic(
        `${writer.acknowledged.size} acknowledged, ${there.size} there, ${server.kills("host")} kills of the host, ${server.kills("control-plane")} of the control plane so far`,
      );

      folders();
      await api.delete(at(id));
      known.push(id);
      await waitFor(
        "nothing but the backups to be stored",
        async () => stored() === (await told()),
        60_000,
        200,
      ).catch(async () =>
        assert.equal(stored(), await told(), "bytes of blobs, and of the backups that are told of"),
      );
      await waitFor(
        "nothing to be left",
        () => remnants(server.folders.data, uids).length === 0,
        30_000,
        200,
      ).catch(() => assert.deepEqual(remnants(server.folders.data, uids), []));
      assert.deepEqual(server.armed, []);
    });
});

/** The server's own process and its workers. */
function serversBelow(folder: string): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((name) => {
      try {
        const command = readFileSync(`/proc/${name}/cmdline`, "utf8");
        return command.includes(folder) && /postgres|mariadbd|redis/.test(command.split("\0")[0]!);
      } catch {
        return false; // Ended meanwhile.
      }
    })
    .map(Number);
}
