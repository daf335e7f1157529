import { isIP } from "node:net";
import type { Authority } from "@platform/certificates";
import type { CertificatePair } from "@platform/edge-api";
import type { CertificateSource } from "./certificate-store.ts";

export interface DevelopmentOptions {
  readonly authority: Authority;
  /** Domain of the tenant that a host name belongs to, or the name itself if it is a route's; null: nobody's. */
  readonly owns: (hostname: string) => string | null;
}

/**
 * Certificates of a private authority for the names that tenants own, made when they are first asked for.
 * One covers all names beside each other (`*.sandbox.DOMAIN`), so that a new sandbox needs no new one.
 */
export class DevelopmentCertificates implements CertificateSource {
  readonly #options: DevelopmentOptions;

  constructor(options: DevelopmentOptions) {
    this.#options = options;
  }

  keyOf(hostname: string): string | null {
    if (hostname === "localhost" || isIP(hostname) !== 0) return hostname;
    const owner = this.#options.owns(hostname);
    if (owner === null) return null;
    if (hostname === owner || !hostname.endsWith(`.${owner}`)) return hostname;
    return `*${hostname.slice(hostname.indexOf("."))}`;
  }

  certificate(key: string): Promise<CertificatePair | null> {
    const name = key.startsWith("*.") ? key.slice(2) : key;
    return this.#options.authority.issue(name, [...new Set([key, name])]);
  }
}
