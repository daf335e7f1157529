import { randomUUID } from "node:crypto";
import { chmodSync, mkdirSync, readFileSync, realpathSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

/** Where files go that an unprivileged server must reach while the wished folder lies below a closed one, such as /root. */
const openFolder = "/var/lib/embedded-postgres";

/** The first folder on the way to `path` that others than its owner may not enter, or `null`. */
export function closedFolder(path: string): string | null {
  const folders = [];
  for (let at = realpathSync(path); ; at = dirname(at)) {
    folders.unshift(at);
    if (at === "/") break;
  }
  return folders.find((folder) => (statSync(folder).mode & 0o001) === 0) ?? null;
}

/**
 * A folder for server files: `dataDir` itself, or, when we run as root and an ancestor of it is closed
 * to the server's uid, one below /var/lib whose name is kept in `dataDir`/location. The name is
 * random, so that a data folder that was deleted and made anew never meets old server files.
 */
export function serverHome(dataDir: string): string {
  mkdirSync(dataDir, { recursive: true, mode: 0o711 });
  if (process.getuid?.() !== 0) return realpathSync(dataDir);
  // Others may enter but not list: files inside keep modes of their own.
  chmodSync(dataDir, (statSync(dataDir).mode & 0o777) | 0o011);
  if (closedFolder(dataDir) === null) return realpathSync(dataDir);
  const note = join(dataDir, "location");
  let home: string;
  try {
    home = readFileSync(note, "utf8").trim();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    home = join(openFolder, "data", randomUUID());
    writeFileSync(note, `${home}\n`, { mode: 0o600 });
  }
  makeOpenFolder(home);
  return home;
}

/** Makes `path` and its missing ancestors with modes that let any uid pass through. */
export function makeOpenFolder(path: string): void {
  mkdirSync(path, { recursive: true, mode: 0o711 });
  const closed = closedFolder(path);
  if (closed) {
    throw new Error(
      `${closed} is closed to the unprivileged user that Postgres runs as. Run: chmod o+x ${closed}`,
    );
  }
}

export { openFolder };
