import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { authorityName, openAuthority } from "@platform/certificates";
import { lockFolder, startEmbeddedPostgres } from "@platform/postgres";
import { createLog, waitFor } from "@platform/daemon";
import { createClient, type Tenant } from "@platform/sdk";
import { SupervisedChild, type ChildEvent } from "./child.ts";
import {
  authorityFile,
  authorityFolder,
  choosePorts,
  loadSecrets,
  makeDataFolder,
  processesFolder,
  programNames,
  type Ports,
  type ProgramName,
} from "./data-folder.ts";
import { ensureGuestImage } from "./guest-image.ts";
import { endLeftOvers } from "./left-over.ts";
import { bootstrapKeyFile, hasProgram, programSpec, type Layout } from "./programs.ts";

export interface PlatformOptions {
  readonly repository: string;
  readonly dataDir: string;
  /** The starter's PATH. */
  readonly path: string;
  /** An own Postgres; null starts one below the data folder. */
  readonly databaseUrl: string | null;
  /** Null: the last one, or any that is free. */
  readonly edgePort: number | null;
  readonly stopBoxesOnExit: boolean;
  /** Whether images of templates are built in the background. */
  readonly mustBuildImages: boolean;
  /** Where they lie; data folders may share it. */
  readonly imagesDir: string;
  /** Settings of the host program that the starter chose. */
  readonly hostSettings?: Readonly<Record<string, string>>;
  readonly objectStoreSettings?: Readonly<Record<string, string>>;
  readonly controlPlaneSettings?: Readonly<Record<string, string>>;
  readonly edgeSettings?: Readonly<Record<string, string>>;
  /** Folder in which a test arms named points that kill a program; null outside tests. */
  readonly faultPointsDir: string | null;
  /** The tenant that is made at the first start. */
  readonly tenant: { readonly name: string; readonly domain: string };
  readonly onEvent: (program: string, event: ChildEvent | { readonly type: "starting" }) => void;
}

export interface Platform {
  readonly apiUrl: string;
  readonly apiKey: string;
  readonly tenant: Tenant;
  readonly ports: Ports;
  readonly dataDir: string;
  /** PEM with which clients verify the gateway's HTTPS. */
  readonly authorityFile: string;
  /** Process of each program that runs now. */
  pids(): Readonly<Partial<Record<ProgramName, number>>>;
  /** Ends the programs in order: gateway, control plane, host, stores. Deletes nothing. */
  stop(): Promise<void>;
}

/**
 * Starts every program of the platform on this machine and keeps them running.
 *
 * @throws FolderInUseError while another supervisor has the data folder
 * @throws CliError naming the program that did not start
 */
export async function startPlatform(options: PlatformOptions): Promise<Platform> {
  const dataDir = resolve(options.dataDir);
  makeDataFolder(dataDir);
  const closers: (() => Promise<void> | void)[] = [];
  const stop = async () => {
    for (const close of closers.splice(0).reverse()) await close();
  };
  const lock = lockFolder(dataDir);
  closers.push(() => lock.release());
  try {
    await endLeftOvers(processesFolder(dataDir));
    const secrets = loadSecrets(dataDir);
    const ports = await choosePorts(dataDir, options.edgePort);
    const started = (name: string) => options.onEvent(name, { type: "starting" });
    started("sandbox agent");
    const guestImage = await ensureGuestImage(options.repository, options.path);
    started("postgres");
    // Made here and not by the gateway, so that its certificate is there when the platform is.
    const authority = await openAuthority(authorityFolder(dataDir), authorityName(options.tenant.name));
    writeFileSync(authorityFile(dataDir), authority.certificate, { mode: 0o644 });
    const databaseUrl = options.databaseUrl ?? (await startStore(dataDir, closers));
    const layout: Layout = {
      ...options,
      dataDir,
      databaseUrl,
      guestImage,
      ports,
      secrets,
    };
    const children = new Map<ProgramName, SupervisedChild>();
    for (const name of programNames.filter((program) => hasProgram(options.repository, program))) {
      started(name);
      const child = new SupervisedChild(programSpec(layout, name), (event) => options.onEvent(name, event));
      children.set(name, child);
      closers.push(() => child.stop());
      await child.start();
    }
    const apiUrl = `http://127.0.0.1:${ports.edge}/api/v1`;
    const apiKey = await readBootstrapKey(dataDir);
    const tenant = await askTenant(apiUrl, apiKey);
    return {
      apiUrl,
      apiKey,
      tenant,
      ports,
      dataDir,
      authorityFile: authorityFile(dataDir),
      stop,
      pids: () =>
        Object.fromEntries([...children].flatMap(([name, child]) => (child.pid ? [[name, child.pid]] : []))),
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

async function startStore(dataDir: string, closers: (() => Promise<void> | void)[]): Promise<string> {
  const server = await startEmbeddedPostgres({
    dataDir: join(dataDir, "postgres"),
    log: createLog("postgres", "error"),
  });
  closers.push(() => server.stop());
  return server.url;
}

/** The control plane writes it once, owner-only, before it says that it is ready. */
async function readBootstrapKey(dataDir: string): Promise<string> {
  const path = bootstrapKeyFile(dataDir);
  return waitFor(
    "the first API key",
    () => (existsSync(path) ? readFileSync(path, "utf8").trim() || undefined : undefined),
    10_000,
  );
}

/** A real call through the gateway: only this shows that the whole chain answers. */
async function askTenant(apiUrl: string, apiKey: string): Promise<Tenant> {
  const client = createClient({ baseUrl: apiUrl, apiKey });
  try {
    return await waitFor("the API to name its tenant", () => client.tenant(), 30_000, 200);
  } finally {
    await client.close();
  }
}
