import { HostError, type LogStock } from "@platform/host-api";
import type { Authority } from "./authority.ts";
import type { Entry } from "./entry.ts";
import type { Acting } from "./server.ts";
import { assertAlive } from "./users.ts";

/** The server's log, kept on this machine until somebody has stored it elsewhere. */
export interface LogArchive {
  /** Begins with the first call. Whatever was acknowledged before it is in what the answer lists. */
  take(entry: Entry, authority: Authority): Promise<LogStock>;
  /** A segment that was listed. @throws HostError `NOT_FOUND` */
  read(entry: Entry, name: string): Promise<Buffer>;
  /** Once they are stored elsewhere; also those that are gone already. */
  forget(entry: Entry, names: readonly string[]): Promise<void>;
  /** Nothing is kept any more. */
  stop(entry: Entry): Promise<void>;
}

/** @throws HostError `INVALID` for engines without a log that can be replayed */
export function logOf({ entry, acting }: { entry: Entry; acting: Acting }) {
  const { logArchive: archive, engine } = acting.kind;
  if (!archive) {
    const message = `${engine} has no log by which a moment could be restored. Use backups.`;
    throw new HostError("INVALID", 422, message, { reason: "no_log" });
  }
  return {
    take: () => {
      assertAlive(entry);
      return archive.take(entry, acting.authority);
    },
    read: (name: string) => archive.read(entry, name),
    forget: (names: readonly string[]) => archive.forget(entry, names),
    stop: () => archive.stop(entry),
  };
}
