import { connect, isIP, type Socket } from "node:net";
import type { BoxLink, EgressPolicy } from "@platform/host-api";
import { judge, mayBeAllowed } from "./policy.ts";

/** Looks a name up on this machine; all its addresses. */
export type ResolveName = (name: string) => Promise<string[]>;
/** Where a database of this host listens; `most`: how many connections of the share there may be; `null`: no such key. */
export type ResolveDatabase = (
  key: string,
  port: number,
  share?: "production" | "previews",
) => Promise<{ host: string; port: number; most?: number | null } | null>;

/** What is dialled; `budget`: counted under the key, and refused beyond `most`. */
export interface Place {
  readonly host: string;
  readonly port: number;
  readonly budget?: { readonly key: string; readonly most: number };
}

export interface OutboundTarget {
  readonly host: string;
  readonly port: number;
}

export class OutboundRefusal extends Error {
  readonly code: "EGRESS_DENIED" | "ADDRESS_NOT_ALLOWED" | "UNREACHABLE" | "TOO_MANY_CONNECTIONS" | "INVALID";
  readonly status: number;
  constructor(code: OutboundRefusal["code"], status: number, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "OutboundRefusal";
    this.code = code;
    this.status = status;
  }
}

const connectTimeoutMs = 10_000;

/** Reads `name:port`, `1.2.3.4:port` or `[::1]:port`. */
export function parseTarget(text: string, defaultPort?: number): OutboundTarget | null {
  const match = /^(?:\[([^\]]+)\]|([^:[\]]+))(?::(\d{1,5}))?$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = match?.[3] === undefined ? defaultPort : Number(match[3]);
  if (!host || host.length > 253 || port === undefined || port < 1 || port > 65_535) return null;
  return { host, port };
}

/**
 * The one address that may be dialled for this target.
 *
 * @throws OutboundRefusal
 */
export async function settleTarget(
  target: OutboundTarget,
  rules: { egress: EgressPolicy; links: readonly BoxLink[] },
  resolvers: { name: ResolveName; database: ResolveDatabase },
): Promise<Place> {
  const { host, port } = target;
  const link = rules.links.find(
    (entry) => entry.hostname.toLowerCase() === host.toLowerCase() && entry.port === port,
  );
  if (link) {
    const place = await resolvers.database(link.databaseKey, port, link.share);
    if (place) {
      const { most, ...at } = place;
      return most == null ? at : { ...at, budget: { key: link.databaseKey, most } };
    }
    throw new OutboundRefusal("UNREACHABLE", 502, `The linked database at ${host}:${port} is not there.`);
  }
  const denied = (code: "EGRESS_DENIED" | "ADDRESS_NOT_ALLOWED") =>
    new OutboundRefusal(
      code,
      403,
      code === "EGRESS_DENIED"
        ? `The network policy does not allow ${host}:${port}. Add it to the allowed domains or ranges.`
        : `${host} leads to an address that no app may reach.`,
    );
  if (isIP(host) === 0 && !mayBeAllowed(rules.egress, host)) throw denied("EGRESS_DENIED");
  const addresses = isIP(host) === 0 ? await lookUp(host, resolvers.name) : [host];
  const verdict = judge(rules.egress, host, addresses);
  if (!verdict.allowed) throw denied(verdict.code);
  return { host: verdict.address, port };
}

async function lookUp(name: string, resolve: ResolveName): Promise<string[]> {
  try {
    return await resolve(name);
  } catch (cause) {
    throw new OutboundRefusal("UNREACHABLE", 502, `The name ${name} does not resolve.`, { cause });
  }
}

/** @throws OutboundRefusal `UNREACHABLE` */
export function dialTarget({ host, port }: Place): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port, allowHalfOpen: true, noDelay: true });
    const fail = (cause?: Error) => {
      socket.destroy();
      reject(new OutboundRefusal("UNREACHABLE", 502, "The target does not accept connections.", { cause }));
    };
    socket.setTimeout(connectTimeoutMs, () => fail());
    socket.once("error", fail);
    socket.once("connect", () => {
      socket.off("error", fail);
      socket.setTimeout(0);
      resolve(socket);
    });
  });
}
