import ipaddr from "ipaddr.js";
import type { EgressPolicy } from "@platform/host-api";

type Address = ipaddr.IPv4 | ipaddr.IPv6;

/** Ranges that lead into the machine, its network or its cloud provider, never to the internet. */
const forbidden = [
  "0.0.0.0/8",
  "10.0.0.0/8",
  "100.64.0.0/10",
  "127.0.0.0/8",
  "169.254.0.0/16",
  "172.16.0.0/12",
  "192.168.0.0/16",
  "224.0.0.0/4",
  "240.0.0.0/4",
  "::/128",
  "::1/128",
  "64:ff9b::/96",
  "64:ff9b:1::/48",
  "2002::/16",
  "fc00::/7",
  "fe80::/10",
  "fec0::/10",
  "ff00::/8",
].map((text) => ipaddr.parseCIDR(text));

/** An IPv4 address in IPv6 clothes is judged as what it is. */
function parse(text: string): Address | null {
  return ipaddr.isValid(text) ? ipaddr.process(text) : null;
}

function isIn(address: Address, ranges: readonly [Address, number][]): boolean {
  return ranges.some(([network, bits]) => {
    if (network.kind() !== address.kind()) return false;
    return (address as ipaddr.IPv4).match([network as ipaddr.IPv4, bits]);
  });
}

function parseRanges(texts: readonly string[]): [Address, number][] {
  return texts.map((text): [Address, number] => {
    if (text.includes("/")) return ipaddr.parseCIDR(text);
    const address = ipaddr.parse(text);
    return [address, address.kind() === "ipv4" ? 32 : 128];
  });
}

/** @throws RangeError naming a range that is none */
export function checkRanges(policy: EgressPolicy): void {
  for (const text of [...policy.allowedCidrs, ...policy.deniedCidrs]) {
    try {
      parseRanges([text]);
    } catch (cause) {
      throw new RangeError(`"${text}" is not an address range. Write it as 203.0.113.0/24.`, { cause });
    }
  }
}

function coversName(pattern: string, name: string): boolean {
  const wanted = pattern.toLowerCase().replace(/\.$/, "");
  if (wanted === "*") return true;
  if (wanted.startsWith("*.")) return name.endsWith(wanted.slice(1));
  return name === wanted;
}

const isDeniedName = (policy: EgressPolicy, name: string): boolean =>
  policy.deniedDomains?.some((pattern) => coversName(pattern, name)) ?? false;

export type Verdict =
  { allowed: true; address: string } | { allowed: false; code: "EGRESS_DENIED" | "ADDRESS_NOT_ALLOWED" };

/**
 * Decides on resolved addresses, so that a name cannot be checked with one and used with another.
 *
 * @param host name or address as the box asked for it
 * @param addresses what it resolved to on this machine; the very one in the verdict is to be dialled
 */
export function judge(policy: EgressPolicy, host: string, addresses: readonly string[]): Verdict {
  const name = host.toLowerCase().replace(/\.$/, "");
  const isName = parse(name) === null;
  const byName = isName && policy.allowedDomains.some((pattern) => coversName(pattern, name));
  if (isName && isDeniedName(policy, name)) return { allowed: false, code: "EGRESS_DENIED" };
  const allowed = parseRanges(policy.allowedCidrs);
  const denied = parseRanges(policy.deniedCidrs);
  let code: "EGRESS_DENIED" | "ADDRESS_NOT_ALLOWED" = "EGRESS_DENIED";
  for (const text of addresses) {
    const address = parse(text);
    if (!address) continue;
    if (isIn(address, forbidden)) {
      code = "ADDRESS_NOT_ALLOWED";
      continue;
    }
    if (isIn(address, denied)) continue;
    if (policy.mode === "allow-all" || byName || isIn(address, allowed))
      return { allowed: true, address: text };
  }
  return { allowed: false, code };
}

/** Whether resolving the name can lead to a permission at all; spares a lookup that tells outsiders of it. */
export function mayBeAllowed(policy: EgressPolicy, host: string): boolean {
  const name = host.toLowerCase().replace(/\.$/, "");
  if (parse(name) === null && isDeniedName(policy, name)) return false;
  if (policy.mode === "allow-all" || policy.allowedCidrs.length > 0) return true;
  return policy.allowedDomains.some((pattern) => coversName(pattern, name));
}
