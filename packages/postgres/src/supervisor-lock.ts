import { randomUUID } from "node:crypto";
import { linkSync, readFileSync, renameSync, unlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { identify, isAlive, type ProcessIdentity } from "./process-identity.ts";

/** Another live process supervises the folder. */
export class FolderInUseError extends Error {
  readonly owner: ProcessIdentity;
  constructor(folder: string, owner: ProcessIdentity) {
    super(
      `${folder} is in use by process ${owner.pid}. Stop it (kill ${owner.pid}), or start with another data folder.`,
    );
    this.name = "FolderInUseError";
    this.owner = owner;
  }
}

/**
 * Claims `folder` for this process until `release` or death. A lock left by a dead process is taken over.
 *
 * @throws FolderInUseError while its owner lives
 */
export function lockFolder(folder: string): { release(): void } {
  const path = join(folder, "supervisor.lock");
  const self = identify(process.pid);
  if (!self) throw new Error("/proc is not readable; it is needed to lock the data folder.");
  const content = JSON.stringify(self);
  const claim = join(folder, `supervisor.lock.${randomUUID()}`);
  writeFileSync(claim, content, { mode: 0o600 });
  try {
    for (let attempt = 0; attempt < 10; attempt++) {
      if (tryLink(claim, path)) return { release: () => release(path, content) };
      removeStale(folder, path);
    }
    throw new Error(`${path} changes hands all the time; start one supervisor only.`);
  } finally {
    unlinkSync(claim);
  }
}

function tryLink(claim: string, path: string): boolean {
  try {
    linkSync(claim, path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  }
}

function removeStale(folder: string, path: string): void {
  const seen = readOrNull(path);
  if (seen === null) return;
  const owner = parseOwner(seen);
  if (owner && isAlive(owner)) throw new FolderInUseError(folder, owner);
  const aside = join(folder, `supervisor.lock.stale.${randomUUID()}`);
  try {
    renameSync(path, aside);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
    throw error;
  }
  // Between reading and renaming another starter may have replaced the stale lock: give it back.
  if (readOrNull(aside) !== seen) tryLink(aside, path);
  unlinkSync(aside);
}

function parseOwner(content: string): ProcessIdentity | null {
  try {
    const { pid, startTicks } = JSON.parse(content) as ProcessIdentity;
    return Number.isInteger(pid) && typeof startTicks === "string" ? { pid, startTicks } : null;
  } catch {
    // Written whole before it is linked, so an unreadable lock is damage, not a live owner.
    return null;
  }
}

function release(path: string, content: string): void {
  if (readOrNull(path) === content) unlinkSync(path);
}

function readOrNull(path: string): string | null {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
}
