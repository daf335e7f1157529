import { createWriteStream, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { waitFor } from "@platform/daemon";
import { HostError, type Frame } from "@platform/host-api";
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

async function* contentOf(frames: AsyncIterable<Frame>): AsyncGenerator<Buffer> {
  for await (const { type, content } of frames) if (type === "data") yield content;
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
    // A backup that is cut off closes the file too, before its folder goes.
    const file = createWriteStream(join(entry.folders.data, "dump.rdb"), { mode: 0o600 });
    await pipeline(Readable.from(contentOf(frames)), file);
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
