import { createHash, timingSafeEqual } from "node:crypto";
import type { SandboxTokenKind } from "@platform/edge-api";
import type { Exchange } from "../exchange.ts";
import { sandboxIdHeader, sandboxPortHeader } from "./find.ts";

export type TokenOf = (kind: SandboxTokenKind, sandboxId: string) => string;

/** Names that the sandbox protocol fixes. */
export const agentTokenHeader = "x-access-token";
export const trafficTokenHeader = "e2b-traffic-access-token";

/** What clients of the sandbox protocol send for us: a program in a sandbox neither needs nor gets it. */
export const sandboxHeaders: ReadonlySet<string> = new Set([
  agentTokenHeader,
  trafficTokenHeader,
  sandboxIdHeader,
  sandboxPortHeader,
]);

/** All that clients may ask of a sandbox's agent. What the platform itself asks it is not among these. */
const agentRoutes = new Set([
  "GET /health",
  "GET /metrics",
  "GET /envs",
  "GET /files",
  "HEAD /files",
  "POST /files",
  "POST /files/compose",
]);
const agentCalls = /^\/(?:process\.Process|filesystem\.Filesystem)\/[A-Za-z]{1,64}$/;

/** Where clients of code interpreters look for theirs. */
export const interpreterPort = 49_999;
const interpreterRoutes =
  /^(?:GET \/health|GET \/contexts|POST \/contexts|POST \/execute|DELETE \/contexts\/[\w:.%-]{1,200}|POST \/contexts\/[\w:.%-]{1,200}\/restart)$/;

/** What the agent answers in place of a program on that port. */
export const isInterpreterRoute = (method: string, path: string): boolean =>
  interpreterRoutes.test(`${method} ${path}`);

/**
 * Clients send the sandbox's token with code to be run, and with nothing else.
 *
 * @returns null when it may pass, else the reason
 */
export function interpreterAccess(exchange: Exchange, path: string, token: string): string | null {
  if (path !== "/execute") return null;
  const given = exchange.req.headers[agentTokenHeader];
  if (typeof given !== "string") return "unauthorized access, no access token was sent";
  return isSame(given, token) ? null : "unauthorized access, the access token is not valid";
}

export function isAgentRoute(method: string, path: string): boolean {
  return agentRoutes.has(`${method} ${path}`) || (method === "POST" && agentCalls.test(path));
}

/**
 * Whether a call to the agent carries the sandbox's token, or for one file a signature made with it.
 * Health is told to anybody.
 *
 * @returns null when it may pass, else the reason, in the protocol's words
 */
export function agentAccess(exchange: Exchange, token: string, nowMs: number): string | null {
  const url = new URL(exchange.target, "http://sandbox.invalid");
  if (url.pathname === "/health") return null;
  const given = exchange.req.headers[agentTokenHeader];
  if (typeof given === "string")
    return isSame(given, token) ? null : "unauthorized access, the access token is not valid";
  const signature = url.searchParams.get("signature");
  if (url.pathname !== "/files" || signature === null) return "unauthorized access, no access token was sent";
  const { searchParams: query } = url;
  const operation = exchange.req.method === "POST" ? "write" : "read";
  const parts = [query.get("path") ?? "", operation, query.get("username") ?? "", token];
  const expiration = query.get("signature_expiration");
  if (expiration !== null) parts.push(expiration);
  const digest = createHash("sha256").update(parts.join(":")).digest("base64").replace(/=+$/, "");
  // In a query a plus may have become a space on its way.
  if (!isSame(signature.replaceAll(" ", "+"), `v1_${digest}`)) return "invalid signature";
  if (expiration !== null && !(Number(expiration) * 1000 > nowMs)) return "signature is already expired";
  return null;
}

/** Whether a request for a port that is not public carries the token for it. */
export function trafficAccess(exchange: Exchange, token: string): boolean {
  const given = exchange.req.headers[trafficTokenHeader];
  return typeof given === "string" && isSame(given, token);
}

const hash = (text: string) => createHash("sha256").update(text).digest();
/** In constant time, whatever the lengths. */
const isSame = (given: string, wanted: string) => timingSafeEqual(hash(given), hash(wanted));
