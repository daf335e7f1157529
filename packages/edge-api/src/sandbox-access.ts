import { createHmac } from "node:crypto";

/**
 * Tokens of one sandbox, derived from the secret that edges and control planes share: neither stores
 * them, and an edge can check a signature made with one. `guest` opens the sandbox's own agent
 * (commands and files), `traffic` the ports of a sandbox whose ports are not public.
 */
export type SandboxTokenKind = "guest" | "traffic";

/** @returns 43 characters of base64url */
export const sandboxToken = (edgeToken: string, kind: SandboxTokenKind, sandboxId: string): string =>
  createHmac("sha256", edgeToken).update(`sandbox ${kind} ${sandboxId}`).digest("base64url");

/** Port under which clients of the sandbox protocol reach the agent in a sandbox; fixed by that protocol. */
export const guestAgentPort = 49_983;

/** Host name of the route for every port of a sandbox: `*-ID.DOMAIN` stands for `PORT-ID.DOMAIN`. */
export const sandboxRouteHostname = (sandboxId: string, domain: string): string => `*-${sandboxId}.${domain}`;

/** Takes `PORT-ID.DOMAIN` apart; null for any other host name. */
export function parseSandboxHostname(
  hostname: string,
): { port: number; sandboxId: string; domain: string } | null {
  const found = /^(\d{1,5})-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.(.+)$/.exec(hostname);
  if (!found) return null;
  const port = Number(found[1]);
  return port < 1 || port > 65_535 ? null : { port, sandboxId: found[2]!, domain: found[3]! };
}
