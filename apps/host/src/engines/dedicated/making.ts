import { chownSync } from "node:fs";
import { dirname } from "node:path";
import { faultPoint } from "@platform/daemon";
import { HostError, type Frame } from "@platform/host-api";
import { chownTree } from "@platform/postgres";
import { loginFailed, loginOf, save, type Entry } from "./entry.ts";
import type { Manifest } from "./manifest.ts";
import { awaitLogin, halt, launch, type Acting } from "./server.ts";

/** Disks, the data on them, and all of it the server's. */
export async function fill(
  { folders, state }: Entry,
  { limits, kind }: Acting,
  write: () => Promise<void>,
): Promise<void> {
  await limits.makeDisks(folders, state.spec, kind);
  await write();
  if (state.uid === null) return;
  await chownTree(folders.data, state.uid);
  if (!state.hasDisk) return;
  chownSync(dirname(folders.data), state.uid, state.uid);
  if (kind.journalBytes !== null) await chownTree(folders.journalDisk.mount, state.uid);
}

/**
 * The first start of a server, on another port when somebody was faster.
 *
 * @param password of the administrator, until it is set anew
 */
export async function startFirst(
  entry: Entry,
  acting: Acting,
  signal: AbortSignal,
  nextPort: () => Promise<number>,
  password = entry.state.superuserPassword,
): Promise<void> {
  const { kind, authority } = acting;
  for (let attempt = 0; ; attempt++) {
    signal.throwIfAborted();
    await launch(entry, acting);
    const known = { ...entry, state: { ...entry.state, superuserPassword: password } };
    const asked = password === entry.state.superuserPassword ? entry : known;
    const proof = await awaitLogin(entry, () => kind.proveAdministrator(asked, authority));
    if (proof.ok) break;
    await halt(entry, kind);
    if (attempt === 2) throw loginFailed(entry, proof);
    save(entry, { port: await nextPort() });
  }
  faultPoint(`host.${kind.engine}.after-start`);
  signal.throwIfAborted();
}

/** A login and a write with what will be handed out. */
export async function proveFirst(entry: Entry, { kind, authority }: Acting): Promise<void> {
  const proof = await kind.prove(loginOf(entry, authority), true);
  if (!proof.ok) throw loginFailed(entry, proof);
  entry.proof = proof;
}

/** The first start of an empty server, up to a login with what will be handed out. */
export async function startAndFurnish(
  entry: Entry,
  acting: Acting,
  signal: AbortSignal,
  nextPort: () => Promise<number>,
): Promise<void> {
  const { kind, authority } = acting;
  await startFirst(entry, acting, signal, nextPort);
  await kind.furnish(entry, authority);
  faultPoint(`host.${kind.engine}.after-role`);
  signal.throwIfAborted();
  await proveFirst(entry, acting);
}

/** @throws HostError `INVALID` for a backup that this server cannot read */
export function assertSameMajor(manifest: Manifest, engine: string, { version }: { version: string }): void {
  if (manifest.engine === engine && manifest.major === version) return;
  const message = `The backup is of ${manifest.engine} ${manifest.major}. Restore it into a database of the same engine and version.`;
  throw new HostError("INVALID", 422, message, { reason: "backup_of_other_engine" });
}

export interface BackupSource {
  readonly manifest: Manifest;
  readonly frames: AsyncIterable<Frame>;
  /** Nothing later shall be in it. */
  readonly targetTime: string | null;
  readonly signal: AbortSignal;
}

/** Fills the reserved database with what a backup holds, up to a login with ways in of its own. */
export async function makeOfBackup(
  entry: Entry,
  acting: Acting,
  from: BackupSource,
  nextPort: () => Promise<number>,
): Promise<void> {
  const { kind, authority } = acting;
  const { manifest, frames, targetTime, signal } = from;
  const { database, owner, superuserPassword } = manifest;
  // The accounts of Redis are no part of its data.
  const isRedis = kind.engine === "redis";
  save(entry, isRedis ? {} : { database, owner });
  await fill(entry, acting, () => kind.backup.unpack(entry, manifest, frames, authority, targetTime));
  faultPoint(`host.${kind.engine}.after-unpack`);
  const password = isRedis ? entry.state.superuserPassword : superuserPassword;
  const start = () => startFirst(entry, acting, signal, nextPort, password);
  const again = targetTime === null ? undefined : kind.backup.untilTheEnd;
  if (!again) await start();
  else {
    // A log in which nothing follows the moment ends before the server has seen it.
    await start().catch(async (error: unknown) => {
      signal.throwIfAborted();
      await again(entry, error);
      await start();
    });
  }
  await kind.backup.adopt(entry, manifest, authority, targetTime);
  await proveFirst(entry, acting);
  faultPoint(`host.${kind.engine}.restored`);
}

/** What is told of a restore that failed. */
export function restoreFailure(error: unknown): HostError {
  if (error instanceof HostError) return error;
  const message = `The backup could not be restored: ${(error as Error).message.slice(0, 500)}`;
  return new HostError("INVALID", 422, message, { reason: "restore_failed" }, { cause: error });
}
