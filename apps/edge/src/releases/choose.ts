import { createHash } from "node:crypto";
import type { Canary, RouteTarget } from "@platform/edge-api";
import type { Exchange } from "../exchange.ts";
import { clientAddress, type ForwardedFacts } from "../proxy/index.ts";
import type { Refusals } from "./refusals.ts";

type Main = Extract<RouteTarget, { type: "boxes" | "static" }>;

/** One release to ask; the next in the list answers what it does not. */
export interface Choice {
  /** null: the route's own. */
  readonly releaseId: string | null;
  readonly target:
    Pick<Extract<Main, { type: "boxes" }>, "type" | "upstreams"> | Extract<Main, { type: "static" }>;
  /** The next one also answers in place of a 5xx. */
  readonly refusesErrors: boolean;
}

/**
 * Whom to ask, in this order: the canary, if this request falls to it, the main release, what served before. The last two
 * change places while the main release takes no connections.
 *
 * @param key of the main release under this name, among the refusals
 */
export function choicesOf(
  main: Main,
  key: string,
  refusals: Refusals,
  exchange: Exchange,
  facts: ForwardedFacts,
): Choice[] {
  const { canary, fallback } = main;
  const chosen = canary !== undefined && fallsTo(canary, exchange, facts);
  const own: Choice = { releaseId: null, target: main, refusesErrors: false };
  const before: Choice[] = fallback ? [{ ...fallback, refusesErrors: false }] : [];
  const isResting = fallback !== undefined && !refusals.mayAsk(key);
  return [
    ...(chosen ? [{ ...canary, refusesErrors: true }] : []),
    ...(isResting ? [...before, own] : [own, ...before]),
  ];
}

function fallsTo(canary: Canary, exchange: Exchange, facts: ForwardedFacts): boolean {
  if (canary.sticky === "request") return Math.random() * 100 < canary.percent;
  return visitorShare(canary.releaseId, visitorOf(exchange, facts)) * 100 < canary.percent;
}

function visitorOf({ req }: Exchange, facts: ForwardedFacts): string {
  const before = facts.trustForwarded ? String(req.headers["x-forwarded-for"] ?? "").split(",", 1)[0] : "";
  return `${before || clientAddress(req)} ${req.headers["user-agent"] ?? ""}`;
}

/**
 * Where a visitor stands among all, from 0 to below 1. The release's id is part of it, so that each rollout
 * begins with other people; whoever is in stays in when the percentage rises.
 */
export function visitorShare(releaseId: string, visitor: string): number {
  return createHash("sha256").update(`${releaseId} ${visitor}`).digest().readUInt32BE(0) / 2 ** 32;
}
