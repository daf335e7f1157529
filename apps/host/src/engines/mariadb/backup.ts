import { chownSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { HostError } from "@platform/host-api";
import { feed, framesOf, runProgram, type BackupMethod } from "../dedicated/backup.ts";
import { findProgram } from "../dedicated/program.ts";
import { accountStatements, administrator, assertPlain, closingStatements } from "./accounts.ts";
import { connectionsOf, logFileMib, temporaryFolder } from "./data-folder.ts";
import { administratorLogin, rowsOf, withLogin } from "./login.ts";

/** @throws HostError `ENGINE_UNAVAILABLE` with the install line */
function programs(): { backup: string; stream: string } {
  const [backup, stream] = [findProgram(["mariadb-backup"]), findProgram(["mbstream"])];
  if (backup && stream) return { backup, stream };
  const line = "apt-get install -y --no-install-recommends mariadb-backup";
  const message = `Backups of MySQL databases need mariadb-backup. Run: ${line}`;
  throw new HostError("ENGINE_UNAVAILABLE", 503, message, { reason: "engine_missing", install: line });
}

export const backup: BackupMethod = {
  /** A hot copy of the files with the part of the redo log that makes it consistent. */
  read: async function* (entry, authority, signal) {
    const { backup: program } = programs();
    const { state, folders } = entry;
    const scratch = mkdtempSync(join(tmpdir(), "backup-"));
    try {
      const [options, ca] = ["options.cnf", "ca.pem"].map((name) => join(scratch, name));
      // The password goes by a file that only we read, never in arguments.
      const lines = ["[client]", `user=${administrator}`, `password=${state.superuserPassword}`];
      const place = ["host=127.0.0.1", `port=${state.port}`, `ssl-ca=${ca}`, "ssl-verify-server-cert"];
      writeFileSync(options!, [...lines, ...place, ""].join("\n"), { mode: 0o600 });
      writeFileSync(ca!, authority.certificate);
      yield* framesOf(
        program,
        [
          ...[`--defaults-file=${options}`, "--backup", "--stream=mbstream", `--target-dir=${scratch}`],
          ...[`--datadir=${folders.data}`, `--tmpdir=${scratch}`],
        ],
        signal,
      );
    } finally {
      rmSync(scratch, { recursive: true, force: true });
    }
  },
  unpack: async (entry, _manifest, frames, authority) => {
    const { backup: program, stream } = programs();
    const { folders, state } = entry;
    mkdirSync(folders.data, { mode: 0o700 });
    await feed(stream, ["-x", "-C", folders.data], frames, () => undefined);
    await runProgram(program, [
      ...["--no-defaults", "--prepare", `--target-dir=${folders.data}`, "--use-memory=64M"],
      `--innodb-log-file-size=${logFileMib}M`,
    ]);
    const { certificate, key } = await authority.issue(["127.0.0.1", "localhost", state.spec.hostname]);
    writeFileSync(join(folders.data, "server.crt"), certificate, { mode: 0o600 });
    writeFileSync(join(folders.data, "server.key"), key, { mode: 0o600 });
    mkdirSync(temporaryFolder(entry), { recursive: true, mode: 0o700 });
    if (state.uid !== null) chownSync(temporaryFolder(entry), state.uid, state.uid);
  },
  adopt: async (entry, manifest, authority) => {
    const { state } = entry;
    const login = { ...administratorLogin(entry, authority), password: manifest.superuserPassword };
    await withLogin(login, async (connection) => {
      for (const statement of closingStatements) await connection.query(statement);
      for (const account of manifest.accounts) {
        const known = await rowsOf(connection, "select 1 from mysql.global_priv where User = ?", [account]);
        if (known.length > 0) await connection.query(`alter user '${assertPlain(account)}'@'%' account lock`);
      }
      for (const statement of accountStatements(state, state, "owner", connectionsOf(state.spec.memoryBytes)))
        await connection.query(statement);
      await connection.query(
        `alter user '${administrator}'@'127.0.0.1' identified by '${assertPlain(state.superuserPassword)}' require ssl`,
      );
    });
  },
};
