import type { FastifyReply, FastifyRequest } from "fastify";
import type { z } from "zod";
import type { RouteDefinition } from "@platform/contract";

/** Whom a request acts for. */
export interface Caller {
  readonly tenantId: string;
  readonly keyId: string;
  readonly keyName: string;
  readonly keyType: string;
  /** null: unrestricted */
  readonly scopes: readonly string[] | null;
  /** A key bound to a workspace sees only that one. */
  readonly workspaceId: string | null;
  readonly externalUserId: string | null;
}

type Parsed<T> = T extends z.ZodType ? z.output<T> : undefined;

/** What a handler gets: everything parsed, nothing of the framework needed in the common case. */
export interface Call<T extends RouteDefinition = RouteDefinition> {
  readonly caller: Caller;
  readonly params: Record<string, string>;
  readonly query: Parsed<T["query"]>;
  readonly body: Parsed<T["body"]>;
  readonly request: FastifyRequest;
  readonly reply: FastifyReply;
  readonly requestId: string;
  /**
   * Id for what this call creates. The same Idempotency-Key always gives the same ids, so that a call
   * that is run again after a crash finds its own first attempt.
   */
  readonly idFor: (what: string) => string;
  /** Aborts when the client goes away. */
  readonly signal: AbortSignal;
}

export interface Handler {
  readonly route: RouteDefinition;
  readonly handle: (call: Call) => Promise<unknown>;
}

/** Joins a route of the contract to the function that serves it. */
export function handler<T extends RouteDefinition>(
  route: T,
  handle: (call: Call<T>) => Promise<unknown>,
): Handler {
  return { route, handle: handle as (call: Call) => Promise<unknown> };
}
