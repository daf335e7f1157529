import { queryOne, type Queryable } from "@platform/postgres";
import { sandboxRouteHostname } from "@platform/edge-api";
import { allows } from "@platform/contract";
import { putRoute } from "../edges/index.ts";
import type { Platform } from "../platform.ts";
import { ownSandbox, type SandboxRow } from "../sandboxes/index.ts";
import { previewDomain, tenantById } from "../tenants/index.ts";
import { ClientProblem } from "./problem.ts";
import type { ClientCall } from "./route.ts";

/** Version of the agent's protocol that our guest speaks; clients choose by it what they ask for. */
export const agentVersion = "0.6.4";
/** Required by clients, used by none. */
const clientId = "default";

/** Rules as the client set them, so that it reads back its own words. */
export interface ClientNetwork {
  readonly allowOut?: string[];
  readonly denyOut?: string[];
  readonly allowPublicTraffic?: boolean;
  readonly maskRequestHost?: string;
}

export interface ClientRow {
  readonly template_id: string;
  readonly auto_resume: boolean;
  readonly is_secure: boolean;
  readonly public_traffic: boolean;
  readonly allow_internet: boolean | null;
  readonly network: ClientNetwork;
  readonly host_mask: string | null;
}

/** A sandbox that another client made: reachable with its tokens only. */
const defaults = (row: SandboxRow): ClientRow => ({
  template_id: row.template_id,
  auto_resume: false,
  is_secure: true,
  public_traffic: false,
  allow_internet: null,
  network: {},
  host_mask: null,
});

export const loadClientRow = async (db: Queryable, row: SandboxRow): Promise<ClientRow> =>
  (await queryOne<ClientRow>(db, "select * from e2b_sandboxes where sandbox_id = $1", [row.id])) ??
  defaults(row);

export async function storeClientRow(db: Queryable, sandboxId: string, row: ClientRow): Promise<void> {
  await db.query(
    `insert into e2b_sandboxes (sandbox_id, template_id, auto_resume, is_secure, public_traffic, allow_internet, network, host_mask)
     values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict (sandbox_id) do update set auto_resume = excluded.auto_resume,
       allow_internet = excluded.allow_internet, network = excluded.network, public_traffic = excluded.public_traffic`,
    [
      sandboxId,
      row.template_id,
      row.auto_resume,
      row.is_secure,
      row.public_traffic,
      row.allow_internet,
      JSON.stringify(row.network),
      row.host_mask,
    ],
  );
}

/** @throws ClientProblem 404, also for one that failed: to these clients it is gone */
export async function clientSandbox(call: ClientCall): Promise<SandboxRow> {
  const id = call.params["sandboxID"]!;
  const row = await ownSandbox(call.platform.pool, call.caller, id);
  if (row.id !== id || row.desired === "destroyed" || row.state === "error")
    throw new ClientProblem(404, `Sandbox "${id}" doesn't exist or you don't have access to it`);
  return row;
}

/** Opens every port of the sandbox to the gateways. @returns the version that they have to acknowledge */
export async function putSandboxRoute(
  db: Queryable,
  platform: Platform,
  row: SandboxRow,
  client: ClientRow,
): Promise<number> {
  const tenant = (await tenantById(db, row.tenant_id))!;
  return putRoute(db, {
    hostname: sandboxRouteHostname(row.id, previewDomain(tenant)),
    tenantId: row.tenant_id,
    kind: "sandbox",
    sandboxId: row.id,
    target: {
      type: "sandbox",
      sandboxId: row.id,
      upstream: { hostUrl: platform.host.address.url, boxKey: row.box_key },
      state: row.state === "paused" ? "paused" : "running",
      wakes: client.auto_resume,
      guestAccess: client.is_secure ? "token" : "public",
      trafficAccess: client.public_traffic ? "public" : "token",
      rewriteHost: client.host_mask,
    },
  });
}

/** A token opens what `sandboxes:exec` allows, so a key without it gets none. */
const guestToken = (call: ClientCall, row: SandboxRow, client: ClientRow) =>
  client.is_secure && allows(call.caller.scopes, "sandboxes:exec")
    ? { envdAccessToken: call.tokens.guest(row.id) }
    : {};

/** What create, connect and fork answer. */
export const connectView = (call: ClientCall, row: SandboxRow, client: ClientRow) => ({
  sandboxID: row.id,
  templateID: client.template_id,
  clientID: clientId,
  envdVersion: agentVersion,
  domain: call.domain,
  ...guestToken(call, row, client),
  ...(client.public_traffic ? {} : { trafficAccessToken: call.tokens.traffic(row.id) }),
});

/** For the time of a sandbox that never ends. */
const never = "9999-12-31T23:59:59.000Z";

export const listedView = (row: SandboxRow, client: Pick<ClientRow, "template_id">) => ({
  sandboxID: row.id,
  templateID: client.template_id,
  ...(row.name === null ? {} : { alias: row.name }),
  clientID: clientId,
  startedAt: (row.started_at ?? row.created_at).toISOString(),
  endAt: row.always_on || !row.expires_at ? never : row.expires_at.toISOString(),
  cpuCount: row.cpu_count,
  memoryMB: row.memory_mb,
  diskSizeMB: row.disk_size_mb,
  metadata: textsOf(row.metadata),
  state: row.state === "paused" ? "paused" : "running",
  envdVersion: agentVersion,
  volumeMounts: [],
});

/** These clients know texts only; the platform keeps its own settings beside them. */
const textsOf = (metadata: Record<string, unknown>): Record<string, string> =>
  Object.fromEntries(
    Object.entries(metadata).filter((entry): entry is [string, string] => typeof entry[1] === "string"),
  );

export const detailView = (call: ClientCall, row: SandboxRow, client: ClientRow) => ({
  ...listedView(row, client),
  ...guestToken(call, row, client),
  domain: call.domain,
  allowInternetAccess: client.allow_internet,
  network: { ...client.network, allowPublicTraffic: client.public_traffic },
  lifecycle: { autoResume: client.auto_resume, onTimeout: row.persistent ? "pause" : "kill" },
});
