import type { BoxSpec, EgressPolicy } from "@platform/host-api";
import { z } from "zod";
import type { Platform } from "../platform.ts";
import type { Tenant } from "../tenants/index.ts";
import { linkedDatabases, listenHints, runtimeEnvironment, type Linked } from "./environment.ts";
import type { SandboxRow } from "./store.ts";

const NetworkPolicy = z.object({
  mode: z.enum(["allow-all", "deny-all"]).catch("allow-all").default("allow-all"),
  allowed_domains: z.array(z.string()).catch([]).default([]),
  allowed_cidrs: z.array(z.string()).catch([]).default([]),
  denied_cidrs: z.array(z.string()).catch([]).default([]),
});

/** The policy that clients set as `metadata.network_policy`; without one, the internet may be reached. */
export function egressOf(metadata: Record<string, unknown>): EgressPolicy {
  const parsed = NetworkPolicy.safeParse(metadata["network_policy"] ?? {});
  // A policy that cannot be read closes everything: it was meant to restrict.
  if (!parsed.success) return { mode: "deny-all", allowedDomains: [], allowedCidrs: [], deniedCidrs: [] };
  const { mode, allowed_domains, allowed_cidrs, denied_cidrs } = parsed.data;
  return { mode, allowedDomains: allowed_domains, allowedCidrs: allowed_cidrs, deniedCidrs: denied_cidrs };
}

export const ownEnvironment = (platform: Platform, row: SandboxRow): Record<string, string> =>
  JSON.parse(platform.seal.open(row.env_sealed)) as Record<string, string>;

/** Everything that a process in the sandbox sees: scope-wide values, then its own, then its databases. */
export async function environmentOf(
  platform: Platform,
  row: SandboxRow,
): Promise<{ env: Record<string, string>; linked: Linked }> {
  const linked = await linkedDatabases(platform, "sandbox", row.id);
  const shared = await runtimeEnvironment(platform, "sandbox", row);
  return { env: { ...listenHints, ...shared, ...ownEnvironment(platform, row), ...linked.env }, linked };
}

export function boxSpecOf(
  row: SandboxRow,
  tenant: Tenant,
  env: Record<string, string>,
  linked: Linked,
): BoxSpec {
  const { temporary: _, ...content } = row.content;
  const policy = tenant.policy["minimum_isolation"];
  return {
    purpose: "sandbox",
    minimumIsolation: policy === "userspace-kernel" || policy === "microvm-hw" ? policy : "namespaces",
    template: "host",
    content,
    limits: {
      memoryBytes: row.memory_mb * 1024 * 1024,
      cpuMillis: row.cpu_count * 1000,
      maxProcesses: 4096,
      diskBytes: row.disk_size_mb * 1024 * 1024,
    },
    env,
    egress: egressOf(row.metadata),
    links: linked.links,
    services: row.services.map(({ name, command, cwd, env: own }) => ({
      name,
      command,
      cwd,
      env: own ?? {},
      restart: "always" as const,
    })),
    hostname: row.slug,
  };
}
