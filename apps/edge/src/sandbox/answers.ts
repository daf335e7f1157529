import { edgePageHeader, type Brand } from "@platform/edge-api";
import { HostError } from "@platform/host-api";
import type { Exchange } from "../exchange.ts";
import { acceptsHtml, sendPage, type PageKind } from "../pages/index.ts";

/**
 * Why a request did not reach a sandbox. Status and form are what clients of the sandbox protocol
 * understand: 502 means to them that the sandbox does not run, or that nothing listens.
 */
export type SandboxRefusal =
  "sandbox_not_found" | "port_closed" | "traffic_token" | "agent_token" | "no_route";

const refusals: Record<SandboxRefusal, { status: number; page: PageKind; message: string }> = {
  sandbox_not_found: { status: 502, page: "sandbox_not_found", message: "The sandbox was not found" },
  port_closed: { status: 502, page: "port_closed", message: "The sandbox is running but port is not open" },
  traffic_token: { status: 403, page: "private", message: "Sandbox is secured with traffic access token." },
  agent_token: { status: 401, page: "private", message: "unauthorized access" },
  no_route: { status: 404, page: "file_not_found", message: "not found" },
};

/** What the host said about a box that could not be dialled. */
export function refusalOf(error: Error): SandboxRefusal | null {
  if (!(error instanceof HostError)) return null;
  if (error.code === "PORT_REFUSED") return "port_closed";
  // A box that is starting, paused or gone, seen before its route says so.
  return error.code === "UNREACHABLE" ? null : "sandbox_not_found";
}

/** @param message replaces the standard one */
export function answerSandbox(
  exchange: Exchange,
  refusal: SandboxRefusal,
  facts: { sandboxId: string; port: number; brand: Brand | null; message?: string },
): void {
  const { res, req } = exchange;
  if (res.headersSent || res.destroyed) return;
  const { status, page, message } = refusals[refusal];
  if (acceptsHtml(req)) {
    sendPage(exchange, page, facts.brand);
    return;
  }
  const isPort = refusal === "port_closed";
  const isProxy = refusal !== "agent_token" && refusal !== "no_route";
  const body = JSON.stringify({
    ...(isProxy ? { sandboxId: facts.sandboxId } : {}),
    message: facts.message ?? message,
    ...(isPort ? { port: facts.port } : {}),
    code: status,
  });
  res.writeHead(status, {
    "content-type": "application/json; charset=utf-8",
    "content-length": String(Buffer.byteLength(body)),
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "x-request-id": exchange.requestId,
    [edgePageHeader]: page.replaceAll("_", "-"),
  });
  res.end(req.method === "HEAD" ? undefined : body);
}

/** Pages may use signed addresses of files: the signature decides, not where the page comes from. */
export function answerPreflight({ req, res, requestId }: Exchange): void {
  res.writeHead(204, {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": "GET, HEAD, POST, OPTIONS",
    "access-control-allow-headers": String(req.headers["access-control-request-headers"] ?? "*").slice(
      0,
      2_000,
    ),
    "access-control-max-age": "7200",
    "x-request-id": requestId,
  });
  res.end();
}
