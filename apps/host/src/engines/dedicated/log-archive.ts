import { HostError } from "@platform/host-api";
import type { Entry } from "./entry.ts";
import type { Acting } from "./server.ts";
import { assertAlive } from "./users.ts";

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
