import type { GuestClient } from "@platform/guest-protocol";
import type { EgressPolicy } from "@platform/host-api";
import { brandOf, previewHostname, publicUrl, type Tenant } from "../tenants/index.ts";
import type { Platform } from "../platform.ts";
import type { Surroundings } from "./box-spec.ts";
import { listenHints } from "./environment.ts";
import type { SandboxRow } from "./store.ts";

const path = "/workspace/AGENTS.md";

/** Off by the sandbox's own word (`agents_md: false`), or by the tenant's policy for all. */
export const wantsAgentsFile = (
  row: Pick<SandboxRow, "metadata" | "content" | "ready_at">,
  tenant: Tenant,
): boolean =>
  row.ready_at === null &&
  row.content.type === "empty" &&
  (row.metadata["agents_md"] ?? tenant.policy["agents_md"] ?? true) === true;

function network(policy: EgressPolicy): string {
  if (policy.mode === "allow-all")
    return "The internet can be reached, through the proxy that is in `HTTP_PROXY` and `HTTPS_PROXY`.";
  const allowed = [...policy.allowedDomains, ...policy.allowedCidrs];
  return allowed.length === 0
    ? "The internet cannot be reached from here. Do not try to install from it; say what is missing."
    : `Only these can be reached, through the proxy in \`HTTPS_PROXY\`: ${allowed.slice(0, 50).join(", ")}.`;
}

/** Names of variables only: the file may be committed and shown. */
export function agentsFile(
  tenant: Tenant,
  row: Pick<
    SandboxRow,
    "slug" | "services" | "cpu_count" | "memory_mb" | "disk_size_mb" | "idle_timeout_sec"
  >,
  facts: {
    readonly url: string;
    readonly env: readonly string[];
    readonly databases: readonly string[];
    readonly egress: EgressPolicy;
  },
): string {
  const names = facts.env.filter((name) => !(name in listenHints) && !facts.databases.includes(name));
  const list = (all: readonly string[]) => all.map((name) => `\`${name}\``).join(", ");
  return `# Working here

This is a ${brandOf(tenant).name} sandbox: an isolated machine for building one app.

## Place

- Work in \`/workspace\`. It is kept when the sandbox pauses, and it is what gets published. This file is left out of that.
- Limits: ${row.cpu_count} CPU, ${row.memory_mb} MB memory, ${row.disk_size_mb} MB disk. A process over the memory limit is killed.
- ${row.idle_timeout_sec > 0 ? `After ${row.idle_timeout_sec} s without use the sandbox pauses; it wakes by itself.` : "The sandbox stays until its time is over or somebody pauses it."}

## Servers and ports

- Bind to \`0.0.0.0\`, not to 127.0.0.1 or localhost: only then a preview reaches the server. \`HOST\` is set accordingly.
- The preview's address is ${facts.url} once a port is exposed; another port N answers under its own name.
- Allow any host name in the dev server (Vite: \`server.allowedHosts: true\`).
- Start long-running servers as services, not in the background of a shell: they are restarted, and come back with the sandbox.${
    row.services.length > 0
      ? `\n- Services now: ${row.services.map((one) => `\`${one.name}\` (\`${one.command.split("\n")[0]!.slice(0, 100)}\`)`).join(", ")}.`
      : ""
  }

## Data

- ${facts.databases.length > 0 ? `A database is linked: connect with ${list(facts.databases)} from the environment. The same variable is set in production.` : "No database is linked. Once one is, its URL is in `DATABASE_URL`, here and in production."}
- ${names.length > 0 ? `Variables that are set: ${list(names)}.` : "No further variables are set."} Read them from the environment; never write their values into files.

## Network

- ${network(facts.egress)}
- Private addresses and other sandboxes cannot be reached.

## Commands

- \`npm ci\` or \`npm install\` for packages, \`npm run dev\` for the dev server, \`npm run build\` and \`npm test\` before publishing, where the app has them.
- The app must start with one command and listen on \`PORT\`.
`;
}

/** Written once, into a workspace that holds none: what a clone or set-up brought stays as it is. */
export async function writeAgentsFile(
  platform: Platform,
  guest: GuestClient,
  row: SandboxRow,
  tenant: Tenant,
  { env, linked, egress }: Surroundings,
): Promise<void> {
  const isThere =
    row.setup !== null &&
    (await guest.filesystem.stat({ path }).then(
      () => true,
      () => false,
    ));
  if (isThere) return;
  const url = publicUrl(platform.settings, previewHostname(tenant, row.slug, null));
  const databases = Object.keys(linked.env);
  await guest.writeFile(
    path,
    agentsFile(tenant, row, { url, env: Object.keys(env).sort(), databases, egress }),
  );
}
