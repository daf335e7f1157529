import { parseSandboxHostname } from "@platform/edge-api";
import type { Exchange } from "../exchange.ts";
import type { RouteTable, ServedRoute } from "../routes/index.ts";

/** A request for a port of a sandbox; `served` is null when there is no such sandbox here. */
export interface SandboxCall {
  readonly sandboxId: string;
  readonly port: number;
  readonly served: ServedRoute | null;
}

/** Header names that the sandbox protocol fixes for calls whose host name does not say the sandbox. */
export const sandboxIdHeader = "e2b-sandbox-id";
export const sandboxPortHeader = "e2b-sandbox-port";

/**
 * `PORT-ID.sandbox.DOMAIN`, or `sandbox.DOMAIN` with the sandbox and the port in headers. Null when the
 * request is for something else.
 */
export function findSandbox(table: RouteTable, exchange: Exchange): SandboxCall | null {
  const { hostname, req } = exchange;
  const named = parseSandboxHostname(hostname);
  if (named) {
    const served = table.findSandbox(named.sandboxId, named.domain);
    // A name of the same form may have been given to something else.
    if (!served && (table.find(hostname) || !table.brandOf(hostname))) return null;
    return { sandboxId: named.sandboxId, port: named.port, served };
  }
  const sandboxId = req.headers[sandboxIdHeader];
  const port = Number(req.headers[sandboxPortHeader]);
  if (typeof sandboxId !== "string" || !Number.isInteger(port) || port < 1 || port > 65_535) return null;
  const served = table.findSandbox(sandboxId, hostname);
  return served ? { sandboxId, port, served } : null;
}
