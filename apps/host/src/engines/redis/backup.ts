import { createWriteStream, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { waitFor } from "@platform/daemon";
import { HostError } from "@platform/host-api";
import { serverEnvironment } from "@platform/postgres";
import { framesOf, type BackupMethod } from "../dedicated/backup.ts";
import { findProgram } from "../dedicated/program.ts";
import { administratorLogin, infoOf, withLogin } from "./login.ts";
import { administrator, writeFirstFiles } from "./settings.ts";

const rewriteMs = 10 * 60_000;

function client(): string {
  const program = findProgram(["redis-cli"]);
  if (program) return program;
  const line = "apt-get install -y --no-install-recommends redis-tools";
  throw new HostError("ENGINE_UNAVAILABLE", 503, `Backups of Redis need redis-cli. Run: ${line}`, {
    install: line,
  });
}

export const backup: BackupMethod = {
  /** As a replica would: the server writes one snapshot to the connection, none to its disk. */
  read: async function* (entry, authority, signal) {
    const scratch = mkdtempSync(join(tmpdir(), "backup-"));
    try {
      const ca = join(scratch, "ca.pem");
      writeFileSync(ca, authority.certificate);
      const place = ["-h", "127.0.0.1", "-p", String(entry.state.port), "--tls", "--cacert", ca];
      // Of a process's environment others see nothing; its arguments everybody reads.
      const env = { ...serverEnvironment, REDISCLI_AUTH: entry.state.superuserPassword };
      yield* framesOf(client(), [...place, "--user", administrator, "--rdb", "-"], signal, { env });
    } finally {
      rmSync(scratch, { recursive: true, force: true });
    }
  },
  unpack: async (entry, _manifest, frames, authority) => {
    await writeFirstFiles(entry, authority);
    mkdirSync(entry.folders.data, { recursive: true, mode: 0o700 });
    const file = createWriteStream(join(entry.folders.data, "dump.rdb"), { mode: 0o600 });
    for await (const frame of frames)
      if (frame.type === "data" && !file.write(frame.content)) await once(file, "drain");
    file.end();
    await once(file, "finish");
  },
  /** The log is begun from what the snapshot brought; the next start reads the log alone. */
  adopt: async (entry, _manifest, authority) => {
    await withLogin(
      administratorLogin(entry, authority),
      async (connection) => {
        await connection.config("SET", "appendonly", "yes");
        await waitFor(
          "the log to be begun",
          async () => {
            const seen = await infoOf(connection, "persistence");
            return seen.get("aof_rewrite_in_progress") === "0" && seen.get("aof_rewrite_scheduled") === "0";
          },
          rewriteMs,
        );
      },
      rewriteMs + 10_000,
    );
    rmSync(join(entry.folders.data, "dump.rdb"), { force: true });
  },
};
