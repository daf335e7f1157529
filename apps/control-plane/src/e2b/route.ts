import type { FastifyReply, FastifyRequest } from "fastify";
import type { RouteDefinition } from "@platform/contract";
import type { Platform } from "../platform.ts";
import type { Call, Caller } from "../http/index.ts";

/** What every operation is given. */
export interface ClientCall {
  readonly platform: Platform;
  readonly caller: Caller;
  /** Of the path, decoded. */
  readonly params: Record<string, string>;
  readonly query: Record<string, string>;
  readonly body: unknown;
  readonly request: FastifyRequest;
  readonly reply: FastifyReply;
  readonly signal: AbortSignal;
  /** Domain below which this client reaches sandboxes, with the port that it used. */
  readonly domain: string;
  readonly tokens: ClientTokens;
  /** The call as the platform's own features take it. */
  readonly own: (params: Record<string, string>) => Call;
}

export interface ClientTokens {
  guest(sandboxId: string): string;
  traffic(sandboxId: string): string;
}

/** `{name}` in the path is a parameter, as in the client's own description. */
export interface ClientRoute {
  readonly method: RouteDefinition["method"];
  readonly path: string;
  /** Scope that the key needs; null: any key. */
  readonly scope: string | null;
  /** Default 200; 204 without a body. */
  readonly status?: number;
  readonly handle: (call: ClientCall) => Promise<unknown>;
}
