import type { Dispatcher } from "undici";
import { clientGone, type Exchange, type RequestBody } from "../exchange.ts";
import { upstreamHeaders, type ForwardedFacts } from "./headers.ts";
import type { Origin } from "./pools.ts";
import { Relay, type Outcome, type Rewrite } from "./relay.ts";
import { openRequestBody } from "./request-body.ts";

export interface ForwardRequest {
  readonly exchange: Exchange;
  readonly facts: ForwardedFacts;
  readonly rewriteHost: string | null;
  /** Headers of the client that go no further, lower case. */
  readonly dropped?: ReadonlySet<string>;
  /** Headers of the edge's own, flat name-value pairs. */
  readonly added?: readonly string[];
  /** In the order to try them; asked again once when all of them refused. */
  readonly origins: () => readonly Origin[];
  /** Set for an upgrade: the protocol asked for. */
  readonly upgrade: string | null;
  /** Another release answers a repeatable request instead of an answer with 5xx: the outcome is `refused`. */
  readonly refusesErrors?: boolean;
  /** Changes answers on their way to the client. */
  readonly rewrite?: Rewrite | null;
}

/**
 * Sends the request to the first origin that takes it.
 *
 * - Nothing was sent (refused, timed out, pool closing): the next origin, whatever the method.
 * - Sent, but no answer: once more on a fresh connection, if repeating is harmless. This is the case of
 *   a kept-alive connection that the app closed at that very moment. A POST is not repeated, and has a
 *   fresh connection from the start.
 * - The answer had begun: the client's connection breaks as the app's did.
 */
export async function forward(request: ForwardRequest): Promise<Outcome> {
  const { exchange } = request;
  const gone = clientGone(exchange);
  let body: RequestBody;
  try {
    body = await (exchange.body ??= openRequestBody(exchange));
  } catch (error) {
    if (gone.aborted || exchange.req.destroyed) return { type: "client-gone" };
    throw error;
  }
  let tried: readonly Origin[] = [];
  let outcome: Outcome = { type: "unsent", error: new Error("no upstream") };
  for (let round = 0; round < 2; round++) {
    const origins = request.origins();
    // The second round is for a route that moved while its old upstreams refused.
    if (round > 0 && sameOrigins(origins, tried)) break;
    tried = origins;
    outcome = await tryAll(request, origins, body, gone);
    if (outcome.type !== "unsent") break;
  }
  return outcome;
}

async function tryAll(
  request: ForwardRequest,
  origins: readonly Origin[],
  body: RequestBody,
  gone: AbortSignal,
): Promise<Outcome> {
  let outcome: Outcome = { type: "unsent", error: new Error("no upstream") };
  for (const [index, origin] of origins.entries()) {
    outcome =
      body.replayable || !origin.mayHangUp
        ? await attempt(request, origin.pooled(), body, gone)
        : await attemptFresh(request, origin, body, gone);
    if (outcome.type === "upgraded") return { ...outcome, origin: origin.name };
    if (outcome.type === "unsent") continue;
    if (outcome.type !== "unanswered" || !body.replayable || isTimeout(outcome.error)) return outcome;
    return attemptFresh(request, origins[(index + 1) % origins.length]!, body, gone);
  }
  return outcome;
}

async function attemptFresh(
  request: ForwardRequest,
  origin: Origin,
  body: RequestBody,
  gone: AbortSignal,
): Promise<Outcome> {
  const client = origin.fresh();
  try {
    return await attempt(request, client, body, gone);
  } finally {
    client.close().catch(() => client.destroy());
  }
}

async function attempt(
  request: ForwardRequest,
  dispatcher: Dispatcher,
  { body, replayable }: RequestBody,
  gone: AbortSignal,
): Promise<Outcome> {
  if (gone.aborted) return { type: "client-gone" };
  const { exchange, upgrade } = request;
  const relay = new Relay(exchange, gone, {
    refusesErrors: replayable && (request.refusesErrors ?? false),
    rewrite: request.rewrite ?? null,
  });
  const options: Dispatcher.DispatchOptions = {
    path: exchange.target,
    method: exchange.req.method as Dispatcher.HttpMethod,
    headers: [
      ...upstreamHeaders(exchange, request.facts, request.rewriteHost, request.dropped),
      ...(request.added ?? []),
    ],
    body: body as Dispatcher.DispatchOptions["body"],
    upgrade: upgrade ?? null,
  };
  try {
    dispatcher.dispatch(options, relay);
  } catch (error) {
    relay.onResponseError(null as never, error as Error);
  }
  return relay.outcome;
}

/** The app had its time; asking again would double the wait. */
export function isTimeout(error: Error): boolean {
  const { code } = error as { code?: string };
  return error.name === "DialTimeout" || code === "UND_ERR_HEADERS_TIMEOUT";
}

function sameOrigins(a: readonly Origin[], b: readonly Origin[]): boolean {
  return a.length === b.length && a.every((origin) => b.some(({ name }) => name === origin.name));
}
