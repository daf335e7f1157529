import { existsSync } from "node:fs";
import { join } from "node:path";
import { request } from "undici";
import type { ChildSpec } from "./child.ts";
import { cleanEnvironment } from "./clean-environment.ts";
import {
  authorityFolder,
  processesFolder,
  type Ports,
  type ProgramName,
  type Secrets,
} from "./data-folder.ts";
import { noteProcess } from "./left-over.ts";

export interface Layout {
  readonly repository: string;
  readonly dataDir: string;
  /** The starter's PATH. */
  readonly path: string;
  readonly databaseUrl: string;
  readonly guestImage: string;
  readonly ports: Ports;
  readonly secrets: Secrets;
  readonly tenant: { readonly name: string; readonly domain: string };
  /** Whether boxes end with the host program; else they are adopted at its next start. */
  readonly stopBoxesOnExit: boolean;
  /** Settings of the host program that the starter chose: its drivers, the size of its pool. */
  readonly hostSettings?: Readonly<Record<string, string>>;
  /** The same for the control plane: the limits of builds. */
  readonly objectStoreSettings?: Readonly<Record<string, string>>;
  readonly controlPlaneSettings?: Readonly<Record<string, string>>;
  /** The same for the edge: its data plane, its limits, its metrics. */
  readonly edgeSettings?: Readonly<Record<string, string>>;
  /** Whether images of templates are built in the background; a test says no. */
  readonly mustBuildImages: boolean;
  readonly imagesDir: string;
  /** Folder in which a test arms named points that kill a program; null outside tests. */
  readonly faultPointsDir: string | null;
}

export const bootstrapKeyFile = (dataDir: string): string => join(dataDir, "bootstrap-key");
const loopback = (port: number): string => `http://127.0.0.1:${port}`;

type Settings = Record<string, string | number | null>;

function settingsOf(layout: Layout): Record<ProgramName, Settings> {
  const { ports, secrets, dataDir, databaseUrl } = layout;
  const hostData = join(dataDir, "host");
  const artifacts = join(hostData, "artifacts");
  const storeUrl = hasProgram(layout.repository, "object-store") ? loopback(ports["object-store"]) : null;
  return {
    "object-store": {
      OBJECT_STORE_PORT: ports["object-store"],
      OBJECT_STORE_DATA_DIR: join(dataDir, "objects"),
      OBJECT_STORE_TOKEN: secrets.objectStoreToken,
      OBJECT_STORE_ENCRYPTION_KEY: secrets.objectStoreEncryptionKey,
      DATABASE_URL: databaseUrl,
      ...layout.objectStoreSettings,
    },
    host: {
      HOST_LISTEN_PORT: ports.host,
      HOST_TOKEN: secrets.hostToken,
      HOST_DATA_DIR: hostData,
      HOST_ID: "local",
      GUEST_IMAGE_DIR: layout.guestImage,
      TOOLCHAIN_DIR: join(layout.repository, ".toolchain", "node"),
      IMAGES_DIR: layout.imagesDir,
      IMAGES_BUILD: layout.mustBuildImages ? "1" : null,
      HOST_STOP_BOXES_ON_EXIT: layout.stopBoxesOnExit ? "1" : null,
      RUNSC_BIN: fetchedRuntime(layout.repository),
      ...layout.hostSettings,
    },
    "control-plane": {
      CONTROL_PLANE_PORT: ports["control-plane"],
      DATABASE_URL: databaseUrl,
      HOST_URL: loopback(ports.host),
      HOST_TOKEN: secrets.hostToken,
      EDGE_TOKEN: secrets.edgeToken,
      ENCRYPTION_KEY: secrets.encryptionKey,
      TENANT_DOMAIN: layout.tenant.domain,
      TENANT_NAME: layout.tenant.name,
      PUBLIC_SCHEME: "http",
      PUBLIC_PORT: ports.edge,
      ARTIFACTS_DIR: artifacts,
      OBJECT_STORE_URL: storeUrl,
      OBJECT_STORE_TOKEN: storeUrl === null ? null : secrets.objectStoreToken,
      BOOTSTRAP_KEY_FILE: bootstrapKeyFile(dataDir),
      DATA_DIR: join(dataDir, "control-plane"),
      ...layout.controlPlaneSettings,
    },
    edge: {
      EDGE_LISTEN_PORT: ports.edge,
      EDGE_TLS_PORT: ports["edge-tls"],
      TLS_AUTHORITY_DIR: authorityFolder(dataDir),
      TLS_AUTHORITY_NAME: layout.tenant.name,
      EDGE_ID: "local",
      EDGE_TOKEN: secrets.edgeToken,
      CONTROL_PLANE_URL: loopback(ports["control-plane"]),
      HOST_TOKEN: secrets.hostToken,
      EDGE_DATA_DIR: join(dataDir, "edge"),
      ARTIFACTS_DIR: artifacts,
      PUBLIC_PORT: ports.edge,
      ...layout.edgeSettings,
    },
  };
}

/** gVisor's runtime as the set-up fetched it; without, the host looks for the machine's own. */
function fetchedRuntime(repository: string): string | null {
  const program = join(repository, ".toolchain", "runsc", "usr", "bin", "runsc");
  return existsSync(program) ? program : null;
}

/** The object store is a part of its own; the rest works without buckets. */
export const hasProgram = (repository: string, name: ProgramName): boolean =>
  existsSync(join(repository, "apps", name, "src", "main.ts"));

export function programSpec(layout: Layout, name: ProgramName): ChildSpec {
  const { repository, dataDir, secrets, ports } = layout;
  const settings = settingsOf(layout)[name];
  const health: Record<ProgramName, (port: number) => Promise<boolean>> = {
    "object-store": (port) => answers(port, "/internal/health", secrets.objectStoreToken),
    host: (port) => answers(port, "/doctor", secrets.hostToken),
    "control-plane": (port) => answers(port, "/health"),
    // Through the gateway to the control plane: only then can a client reach the API.
    edge: () => answers(ports.edge, "/health"),
  };
  return {
    name,
    command: [process.execPath, join(repository, "apps", name, "src", "main.ts")],
    environment: cleanEnvironment(layout.path, dataDir, {
      ...settings,
      FAULT_POINTS_DIR: layout.faultPointsDir,
    }),
    cwd: repository,
    logFile: join(dataDir, "logs", `${name}.log`),
    onSpawn: (pid) => noteProcess(processesFolder(dataDir), name, pid),
    healthy: health[name],
    startTimeoutMs: 60_000,
    // The host ends its boxes and database servers first.
    stopTimeoutMs: name === "host" ? 30_000 : 12_000,
  };
}

async function answers(port: number, path: string, token?: string): Promise<boolean> {
  const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
  const response = await request(`${loopback(port)}${path}`, {
    headers,
    signal: AbortSignal.timeout(10_000),
  });
  await response.body.dump();
  return response.statusCode === 200;
}
