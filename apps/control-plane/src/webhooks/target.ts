import { lookup, type LookupAddress } from "node:dns";
import { BlockList, isIP, type LookupFunction } from "node:net";
import { PlatformError } from "@platform/contract";

/** Addresses that lead into the machine, its network or its provider, never to the internet. */
const inner = new BlockList();
for (const [net, bits] of [
  ["0.0.0.0", 8],
  ["10.0.0.0", 8],
  ["100.64.0.0", 10],
  ["127.0.0.0", 8],
  ["169.254.0.0", 16],
  ["172.16.0.0", 12],
  ["192.0.0.0", 24],
  ["192.168.0.0", 16],
  ["198.18.0.0", 15],
  ["224.0.0.0", 4],
  ["240.0.0.0", 4],
] as const)
  inner.addSubnet(net, bits, "ipv4");
for (const [net, bits] of [
  ["::", 128],
  ["::1", 128],
  ["64:ff9b::", 96],
  ["64:ff9b:1::", 48],
  ["2001::", 32],
  ["2002::", 16],
  ["fc00::", 7],
  ["fe80::", 10],
  ["fec0::", 10],
  ["ff00::", 8],
] as const)
  inner.addSubnet(net, bits, "ipv6");

export const isInner = (address: string): boolean => {
  const family = isIP(address);
  return family === 0 || inner.check(address, family === 6 ? "ipv6" : "ipv4");
};

/** The target is not on the internet; no repetition cures it. */
export class TargetNotAllowedError extends Error {
  constructor() {
    super("The target is not on the internet.");
    this.name = "TargetNotAllowedError";
  }
}

const bareHost = (url: URL) => url.hostname.replace(/^\[|\]$/g, "");

/** @throws TargetNotAllowedError for an address in the URL itself; names are checked when they are resolved */
export function assertTarget(url: URL, allowPrivate: boolean): void {
  if (!allowPrivate && isIP(bareHost(url)) !== 0 && isInner(bareHost(url))) throw new TargetNotAllowedError();
}

/** Resolves a name to addresses on the internet only; what it returns is what is dialled. */
export const checkedLookup: LookupFunction = (hostname, options, callback) => {
  lookup(hostname, { ...options, all: true }, (error, addresses: LookupAddress[]) => {
    if (error) return callback(error, "", 4);
    const usable = addresses.filter(({ address }) => !isInner(address));
    const first = usable[0];
    if (!first) return callback(new TargetNotAllowedError(), "", 4);
    if (options.all) return callback(null, usable);
    callback(null, first.address, first.family);
  });
};

const invalid = (message: string) =>
  new PlatformError("VALIDATION_FAILED", `url: ${message}.`, { errors: { url: [message] } });

/** @throws PlatformError VALIDATION_FAILED unless the text is a URL that may be called */
export function parseTarget(text: string, allowPrivate: boolean): string {
  if (!URL.canParse(text)) throw invalid("is not a URL. Send an https URL");
  const url = new URL(text);
  if (url.protocol !== "https:" && url.protocol !== "http:")
    throw invalid("begins with neither https: nor http:");
  if (url.username !== "" || url.password !== "")
    throw invalid("must not hold a user or password. Use headers");
  const name = bareHost(url).toLowerCase();
  const isLocalName = name === "localhost" || /\.(?:localhost|local|internal|home\.arpa)$/.test(name);
  if (!allowPrivate && (isLocalName || (isIP(name) !== 0 && isInner(name)))) {
    throw invalid("leads to a private address. Use one that the internet can reach");
  }
  url.hash = "";
  return url.href;
}
