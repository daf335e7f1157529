import { readFileSync } from "node:fs";
import type { GuestConfig } from "@platform/guest-protocol";

const defaults: GuestConfig = {
  socketPath: "/run/agent/guest.sock",
  outboundPath: "/run/agent/outbound.sock",
  workdir: "/workspace",
  home: "/home/user",
  env: {},
  proxyPort: null,
  links: [],
  services: [],
  limits: null,
  logDir: "/var/log/services",
};

/**
 * Reads the file that the host wrote; a missing file means all defaults.
 *
 * @throws Error when the file is not JSON: a box that ignores its settings must not look ready
 */
export function readGuestConfig(path: string): GuestConfig {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return defaults;
    throw error;
  }
  try {
    return { ...defaults, ...(JSON.parse(text) as Partial<GuestConfig>) };
  } catch (cause) {
    throw new Error(`${path} is not JSON; the host has to write it again`, { cause });
  }
}
