import { BlockList, isIP } from "node:net";
import { z } from "zod";
import { ClientProblem, notSupported } from "./problem.ts";
import type { ClientNetwork } from "./store.ts";

const Targets = z.array(z.string().min(1).max(253)).max(500);

/** Unknown fields are named in a refusal: a rule that is not kept must never look kept. */
export const NetworkUpdate = z.looseObject({
  allowOut: Targets.optional(),
  denyOut: Targets.optional(),
  allow_internet_access: z.boolean().optional(),
});
export const NetworkConfig = z.looseObject({
  allowOut: Targets.optional(),
  denyOut: Targets.optional(),
  allowPublicTraffic: z.boolean().optional(),
  maskRequestHost: z.string().min(1).max(253).optional(),
});

const known = new Set([
  "allowOut",
  "denyOut",
  "allow_internet_access",
  "allowPublicTraffic",
  "maskRequestHost",
]);
const unsupported: Record<string, string> = {
  rules: "Changing requests on their way out (network rules)",
  egressProxy: "An egress proxy of your own",
  httpsPorts: "HTTPS towards a port in the sandbox",
};

/** @throws ClientProblem 400 for what is not kept here */
export function assertKept(network: Record<string, unknown>): void {
  for (const [name, value] of Object.entries(network)) {
    if (known.has(name) || value === undefined || value === null) continue;
    if (typeof value === "object" && Object.keys(value).length === 0) continue;
    throw notSupported(unsupported[name] ?? `network.${name}`);
  }
}

const everything = new Set(["0.0.0.0/0", "::/0"]);
const withoutBits = (text: string) => text.split("/", 1)[0]!;
const isRange = (text: string) => isIP(withoutBits(text)) !== 0 && /^[^/]+(\/\d{1,3})?$/.test(text);
const asCidr = (text: string) => (text.includes("/") ? text : `${text}/${isIP(text) === 6 ? 128 : 32}`);
const isDomain = (text: string) => /^(\*|(\*\.)?[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?)$/.test(text);

/** As hosts take it, see `metadata.network_policy` of the platform's own API. */
export interface NetworkPolicy {
  readonly mode: "allow-all" | "deny-all";
  readonly allowed_domains: string[];
  readonly allowed_cidrs: string[];
  readonly denied_cidrs: string[];
}

/**
 * What is allowed goes before what is denied. Once something is denied by default, only the allowed is left;
 * else the denied ranges are closed.
 *
 * @throws ClientProblem 400
 */
export function toPolicy(network: ClientNetwork, allowInternet: boolean | null): NetworkPolicy {
  const allow = network.allowOut ?? [];
  const deny = network.denyOut ?? [];
  const badDeny = deny.find((target) => !isRange(target));
  if (badDeny !== undefined)
    throw new ClientProblem(400, `denyOut: "${badDeny}" is neither an address nor a CIDR range.`);
  const badAllow = allow.find((target) => !isRange(target) && !isDomain(target));
  if (badAllow !== undefined)
    throw new ClientProblem(400, `allowOut: "${badAllow}" is neither an address, a CIDR range nor a domain.`);
  const domains = allow.filter((target) => !isRange(target));
  const ranges = allow.filter(isRange).map(asCidr);
  const deniesAll = allowInternet === false || deny.some((target) => everything.has(target));
  if (deniesAll && !ranges.some((range) => everything.has(range)))
    return { mode: "deny-all", allowed_domains: domains, allowed_cidrs: ranges, denied_cidrs: [] };
  const denied = deny.filter((target) => !everything.has(target)).map(asCidr);
  const exception = ranges.find((range) => denied.some((one) => overlaps(one, range)));
  if (exception !== undefined || (denied.length > 0 && domains.length > 0))
    throw notSupported(
      "An exception from denied ranges while everything else is allowed",
      'Deny "0.0.0.0/0" and allow what is needed, or leave the exception out.',
    );
  return { mode: "allow-all", allowed_domains: [], allowed_cidrs: [], denied_cidrs: denied };
}

/** Of two ranges that share an address, one holds the other's first address. */
function overlaps(first: string, second: string): boolean {
  const holds = (range: string, address: string) => {
    const [net, bits] = range.split("/") as [string, string];
    if (isIP(net) !== isIP(address)) return false;
    const family = isIP(net) === 6 ? "ipv6" : "ipv4";
    const list = new BlockList();
    list.addSubnet(net, Number(bits), family);
    return list.check(address, family);
  };
  return holds(first, withoutBits(second)) || holds(second, withoutBits(first));
}
