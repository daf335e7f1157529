import type { BoxSpec, EgressPolicy } from "@platform/host-api";
import type { Platform } from "../platform.ts";
import type { Tenant } from "../tenants/index.ts";
import { startedServices, toGuestService } from "./desired-services.ts";
import { linkedDatabases, listenHints, runtimeEnvironment, type Linked } from "./environment.ts";
import type { SandboxRow } from "./store.ts";

export const ownEnvironment = (platform: Platform, row: SandboxRow): Record<string, string> =>
  JSON.parse(platform.seal.open(row.env_sealed)) as Record<string, string>;

/** Everything that a process in the sandbox sees: scope-wide values, then its own, then its databases. */
export async function environmentOf(
  platform: Platform,
  row: SandboxRow,
): Promise<{ env: Record<string, string>; linked: Linked }> {
  const [linked, shared] = await Promise.all([
    linkedDatabases(platform, "sandbox", row.id),
    runtimeEnvironment(platform, "sandbox", row),
  ]);
  return { env: { ...listenHints, ...shared, ...ownEnvironment(platform, row), ...linked.env }, linked };
}

/** What programs in the sandbox find around them. */
export interface Surroundings {
  readonly env: Record<string, string>;
  readonly linked: Linked;
  readonly egress: EgressPolicy;
}

export function boxSpecOf(
  platform: Platform,
  row: SandboxRow,
  tenant: Tenant,
  { env, linked, egress }: Surroundings,
): BoxSpec {
  const { temporary: _, from: _from, ...content } = row.content;
  const policy = tenant.policy["minimum_isolation"];
  return {
    purpose: "sandbox",
    minimumIsolation: policy === "userspace-kernel" || policy === "microvm-hw" ? policy : "namespaces",
    template: row.image?.digest ?? "host",
    content,
    limits: {
      memoryBytes: row.memory_mb * 1024 * 1024,
      cpuMillis: row.cpu_count * 1000,
      maxProcesses: 1024,
      diskBytes: row.disk_size_mb * 1024 * 1024,
    },
    env,
    egress,
    links: linked.links,
    services: startedServices(row).map((one) => toGuestService(platform, one)),
    hostname: row.slug,
  };
}
