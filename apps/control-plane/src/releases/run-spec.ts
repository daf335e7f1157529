import type { BoxSpec } from "@platform/host-api";
import type { Platform } from "../platform.ts";
import { listenHints, type Linked } from "../sandboxes/index.ts";

interface Runnable {
  readonly digest: string;
  readonly start: string;
  readonly port: number;
  readonly hostname: string;
}

export const appService = "app";

/** A box that runs a release: its bundle, its environment, and nothing of the sandbox it came from. */
export function runSpec(
  platform: Platform,
  app: Runnable,
  env: Record<string, string>,
  linked: Linked,
): BoxSpec {
  return {
    purpose: "instance",
    minimumIsolation: "namespaces",
    content: { type: "bundle", digest: app.digest },
    limits: {
      memoryBytes: platform.settings.instanceMemoryBytes,
      cpuMillis: 4000,
      maxProcesses: 4096,
      diskBytes: 10 * 1024 ** 3,
    },
    env: {
      NODE_ENV: "production",
      ...listenHints,
      PORT: String(app.port),
      ...env,
    },
    egress: { mode: "allow-all", allowedDomains: [], allowedCidrs: [], deniedCidrs: [] },
    links: linked.links,
    services: [{ name: appService, command: app.start, cwd: "/workspace", env: {}, restart: "always" }],
    hostname: app.hostname,
  };
}
