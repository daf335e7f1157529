import { z } from "zod";
import type { ProblemCode } from "./problems.ts";

/**
 * How the answer is wrapped. `data`: `{"data": …}`; `list`: `{"data": […], …page}` (the handler returns
 * the whole object); `top`: fields at the top level; `raw`: the handler writes the answer itself
 * (bytes, server-sent events).
 */
export type Envelope = "data" | "list" | "top" | "raw";

export interface RouteDefinition {
  readonly id: string;
  readonly method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  /** Below /api/v1, with `:name` parameters and an optional `/*` tail. */
  readonly path: string;
  readonly summary: string;
  readonly tag: string;
  readonly envelope: Envelope;
  /** Scope a key needs, `<resource>:<action>`; null: any valid key. */
  readonly scope: string | null;
  readonly query?: z.ZodType;
  readonly body?: z.ZodType;
  readonly response?: z.ZodType;
  readonly status?: number;
  readonly problems?: readonly ProblemCode[];
  /** Honours Idempotency-Key. All creating calls do. */
  readonly idempotent?: boolean;
  /** The body is bytes of any content type: the handler reads `request.body` as a stream. */
  readonly bytes?: boolean;
  /** A WebSocket: the handler calls `upgrade` once nothing can be refused any more. */
  readonly websocket?: boolean;
  /** Also takes `?ticket=` in place of the bearer header. */
  readonly stream?: boolean;
}

export const defineRoute = <const T extends RouteDefinition>(route: T): T => route;

export type BodyOf<T extends RouteDefinition> = T["body"] extends z.ZodType ? z.output<T["body"]> : undefined;
export type QueryOf<T extends RouteDefinition> = T["query"] extends z.ZodType
  ? z.output<T["query"]>
  : undefined;
