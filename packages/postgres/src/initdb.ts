import { execFile } from "node:child_process";
import { randomUUID } from "node:crypto";
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { promisify } from "node:util";
import { serverEnvironment, type PostgresBinaries } from "./binaries.ts";

const run = promisify(execFile);

/**
 * Makes a cluster folder with SCRAM only, unless it is there. It is made beside and renamed, so that
 * a crash leaves a folder named `*.half-*` (removed by the next call), never a half-made cluster.
 *
 * @param password of the superuser `postgres`; passed in a file, never in arguments
 * @param prepare last changes before the rename, such as pg_hba.conf and ownership
 */
export async function makeCluster(
  binaries: PostgresBinaries,
  cluster: string,
  password: string,
  prepare: (cluster: string) => Promise<void>,
): Promise<void> {
  const parent = dirname(cluster);
  for (const name of readdirSync(parent)) {
    if (name.startsWith(`${basename(cluster)}.half-`))
      rmSync(join(parent, name), { recursive: true, force: true });
  }
  if (existsSync(cluster)) return;
  const half = `${cluster}.half-${randomUUID()}`;
  const maker = process.getuid?.() === 0 ? accountWithName() : null;
  mkdirSync(half, { mode: 0o700 });
  const passwordFile = join(half, "password");
  const target = join(half, "cluster");
  writeFileSync(passwordFile, password, { mode: 0o600 });
  if (maker) for (const path of [half, passwordFile]) chownSync(path, maker.uid, maker.gid);
  try {
    await run(
      binaries.initdb,
      [
        "-D",
        target,
        "-U",
        "postgres",
        "--auth=scram-sha-256",
        `--pwfile=${passwordFile}`,
        "--encoding=UTF8",
        "--locale=C.UTF-8",
        "--data-checksums",
      ],
      { cwd: "/", env: serverEnvironment, timeout: 120_000, ...(maker ?? {}) },
    );
    chmodSync(target, 0o700);
    await prepare(target);
    renameSync(target, cluster);
  } catch (cause) {
    const { stderr } = cause as { stderr?: string };
    throw new Error(`initdb failed: ${(stderr ?? String(cause)).trim().split("\n").slice(-3).join(" ")}`, {
      cause,
    });
  } finally {
    rmSync(half, { recursive: true, force: true });
  }
}

/** initdb refuses both root and a uid without a passwd entry; every Linux has `nobody`. */
function accountWithName(): { uid: number; gid: number } {
  const line = readFileSync("/etc/passwd", "utf8")
    .split("\n")
    .find((entry) => entry.startsWith("nobody:"));
  const [, , uid, gid] = line?.split(":") ?? [];
  if (!uid || !gid) throw new Error("The account `nobody` is missing; run: useradd --system nobody");
  return { uid: Number(uid), gid: Number(gid) };
}
