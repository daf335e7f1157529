import { lookup as systemLookup, type LookupAddress, type LookupOptions } from "node:dns";
import type { LookupFunction } from "node:net";
import { Agent, type Dispatcher } from "undici";

/** True for `localhost` and every name below it (RFC 6761), with or without the final dot. */
export function isLocalhost(hostname: string): boolean {
  const name = hostname.toLowerCase().replace(/\.$/, "");
  return name === "localhost" || name.endsWith(".localhost");
}

/**
 * Name lookup that answers 127.0.0.1 for `*.localhost`, which the C library's resolver does not know,
 * and asks the system for every other name. Fits `lookup` of node:net, node:http and ws.
 */
export const lookupLocalhost: LookupFunction = (
  hostname: string,
  options: LookupOptions,
  callback: (error: NodeJS.ErrnoException | null, address: string | LookupAddress[], family?: number) => void,
): void => {
  if (!isLocalhost(hostname)) {
    systemLookup(hostname, options, callback);
    return;
  }
  const address = { address: "127.0.0.1", family: 4 };
  process.nextTick(() => {
    if (options.all) callback(null, [address]);
    else callback(null, address.address, address.family);
  });
};

/**
 * Connection pool that reaches `*.localhost`. The Host header stays the name that was asked for.
 * Time limits are the caller's (AbortSignal), so that a long command or stream is not cut.
 */
export function localhostDispatcher(options: Agent.Options = {}): Dispatcher {
  return new Agent({ headersTimeout: 0, bodyTimeout: 0, ...options, connect: { lookup: lookupLocalhost } });
}
