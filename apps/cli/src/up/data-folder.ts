import { randomBytes } from "node:crypto";
import { chmodSync, statSync, existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { freePort, isPortFree } from "@platform/postgres";
import { CliError } from "../failure.ts";

export interface Secrets {
  readonly hostToken: string;
  readonly edgeToken: string;
  readonly objectStoreToken: string;
  /** 32 bytes, hex. */
  readonly encryptionKey: string;
  /** 32 bytes, hex. */
  readonly objectStoreEncryptionKey: string;
}

export const programNames = ["object-store", "host", "control-plane", "edge"] as const;
export type ProgramName = (typeof programNames)[number];
/** The gateway has a second port, for HTTPS. */
const portNames = [...programNames, "edge-tls"] as const;
type PortName = (typeof portNames)[number];
export type Ports = Readonly<Record<PortName, number>>;

/** Made once; without the same ones nothing that was sealed before can be opened. */
export function loadSecrets(dataDir: string): Secrets {
  const path = join(dataDir, "secrets.json");
  if (existsSync(path)) return readJson<Secrets>(path);
  const hex = () => randomBytes(32).toString("hex");
  const secrets: Secrets = {
    hostToken: hex(),
    edgeToken: hex(),
    objectStoreToken: hex(),
    encryptionKey: hex(),
    objectStoreEncryptionKey: hex(),
  };
  writeWhole(path, secrets);
  return secrets;
}

/**
 * The same ports at every start, so that URLs handed out stay true.
 *
 * @param edgePort wanted by the user, or null for the last one or any
 * @throws CliError PORT_IN_USE when the wanted port is taken
 */
export async function choosePorts(dataDir: string, edgePort: number | null): Promise<Ports> {
  const path = join(dataDir, "ports.json");
  const last = existsSync(path) ? readJson<Partial<Record<PortName, number>>>(path) : {};
  const chosen: Partial<Record<PortName, number>> = {};
  for (const name of portNames) {
    const wanted = name === "edge" ? (edgePort ?? last.edge) : last[name];
    const isTaken = wanted !== undefined && !(await isPortFree(wanted));
    if (isTaken && name === "edge" && edgePort !== null) {
      throw new CliError(
        "PORT_IN_USE",
        `Port ${edgePort} is in use by another program.`,
        "Stop it, or choose another --port.",
      );
    }
    chosen[name] = wanted !== undefined && !isTaken ? wanted : await unusedPort(Object.values(chosen));
  }
  writeWhole(path, chosen);
  return chosen as Ports;
}

async function unusedPort(taken: readonly number[]): Promise<number> {
  for (let attempt = 0; attempt < 20; attempt++) {
    const port = await freePort();
    if (!taken.includes(port)) return port;
  }
  throw new Error("no free port was found in 20 tries");
}

function readJson<T>(path: string): T {
  try {
    return JSON.parse(readFileSync(path, "utf8")) as T;
  } catch (cause) {
    throw new CliError(
      "DATA_DAMAGED",
      `${path} cannot be read.`,
      "Put it back from a backup, or use a new data folder.",
      1,
      { cause },
    );
  }
}

/** Owner only; whole or not at all. */
function writeWhole(path: string, value: unknown): void {
  writeFileSync(`${path}.new`, `${JSON.stringify(value, null, 2)}\n`, { mode: 0o600, flush: true });
  renameSync(`${path}.new`, path);
}

/** Certificate of the authority that signs for the tenants' names on this machine; clients verify with it. */
export const authorityFolder = (dataDir: string): string => join(dataDir, "authority");
export const authorityFile = (dataDir: string): string => join(dataDir, "authority.crt");

/** One file for each program that runs. */
export const processesFolder = (dataDir: string): string => join(dataDir, "processes");

/** Searchable by others, also one that is there already: boxes and servers below it run as users of their own. */
export function makeDataFolder(dataDir: string): void {
  mkdirSync(join(dataDir, "logs"), { recursive: true, mode: 0o711 });
  chmodSync(dataDir, (statSync(dataDir).mode & 0o7777) | 0o011);
  mkdirSync(processesFolder(dataDir), { recursive: true, mode: 0o700 });
}
