import { createSecureContext, type SecureContext } from "node:tls";
import { challengeCertificate } from "@platform/certificates";
import type { AcmeChallenge } from "@platform/edge-api";

/** RFC 8737: the protocol in which an authority asks for a challenge certificate. */
export const acmeProtocol = "acme-tls/1";

const httpPath = "/.well-known/acme-challenge/";

interface TlsAnswer {
  readonly keyAuthorization: string;
  readonly context: SecureContext;
}

/** Challenges that an authority may look for now, at any edge. */
export class AcmeChallenges {
  #http = new Map<string, string>();
  #tls = new Map<string, TlsAnswer>();
  #dns = new Map<string, string[]>();

  /** Resolves when all of them are answered. */
  async replace(challenges: readonly AcmeChallenge[]): Promise<void> {
    const http = new Map<string, string>();
    const tls = new Map<string, TlsAnswer>();
    const dns = new Map<string, string[]>();
    for (const one of challenges) {
      if (one.type === "http-01") http.set(`${one.hostname} ${one.token}`, one.keyAuthorization);
      else if (one.type === "dns-01") dns.set(one.name, [...(dns.get(one.name) ?? []), one.value]);
      else {
        const known = this.#tls.get(one.hostname);
        tls.set(
          one.hostname,
          known?.keyAuthorization === one.keyAuthorization
            ? known
            : { keyAuthorization: one.keyAuthorization, context: await contextOf(one) },
        );
      }
    }
    [this.#http, this.#tls, this.#dns] = [http, tls, dns];
  }

  /** @returns what to answer a GET with; null: the path belongs to the app */
  http(hostname: string, path: string): string | null {
    if (this.#http.size === 0 || !path.startsWith(httpPath)) return null;
    return this.#http.get(`${hostname} ${path.slice(httpPath.length)}`) ?? null;
  }

  hasTls(hostname: string): boolean {
    return this.#tls.has(hostname);
  }

  tls(hostname: string): SecureContext | null {
    return this.#tls.get(hostname)?.context ?? null;
  }

  /** Values of TXT records at a name of the delegated zone, lower case. */
  dns(name: string): readonly string[] {
    return this.#dns.get(name) ?? [];
  }
}

async function contextOf(one: { hostname: string; keyAuthorization: string }): Promise<SecureContext> {
  const { certificate, key } = await challengeCertificate(one.hostname, one.keyAuthorization);
  return createSecureContext({ cert: certificate, key, minVersion: "TLSv1.2" });
}
