import { readFileSync } from "node:fs";
import { z } from "zod";
import type { AcmeChallenge } from "@platform/edge-api";

export type ChallengeType = AcmeChallenge["type"];

/** How certificates are had from an authority by ACME (RFC 8555); read once in main.ts. */
export interface AcmeSettings {
  readonly directoryUrl: string;
  /** Mail address that the authority may write to; null: none. */
  readonly contact: string | null;
  /** External account binding, where the authority asks for one. */
  readonly eab: { readonly keyId: string; readonly hmacKey: string } | null;
  /** PEM that proves the directory's own server; null: the public authorities. */
  readonly ca: string | null;
  /** In the order to try them. */
  readonly challenges: readonly ChallengeType[];
  /** Zone that `_acme-challenge` names are delegated to, which our edges answer for; null: no wildcards. */
  readonly dnsZone: string | null;
}

/**
 * What we allow ourselves, below what public authorities allow: they count five failed validations for a
 * name and hour, 300 orders in three hours, and 50 new certificates for a registered domain in a week.
 *
 * @see https://letsencrypt.org/docs/rate-limits/
 */
export const limits = {
  failedValidationsAnHour: 4,
  ordersInThreeHours: 250,
  newForDomainAWeek: 45,
} as const;

/** Part of a certificate's life after which it is renewed. */
export const renewAfter = 2 / 3;
/** At most this part of its life earlier, by chance, so that what was issued together is not renewed together. */
export const renewJitter = 1 / 30;

/** Settings from the environment; absent without a directory: then no certificate is ordered. */
export const AcmeConfig = z.object({
  ACME_DIRECTORY_URL: z.url({ protocol: /^https$/ }).optional(),
  ACME_CONTACT: z.email().optional(),
  ACME_EAB_KID: z.string().min(1).optional(),
  ACME_EAB_HMAC_KEY: z.string().min(1).optional(),
  /** PEM file with the authority that the directory's own server is proved by; for tests and private ones. */
  ACME_CA_FILE: z.string().min(1).optional(),
  ACME_CHALLENGES: z
    .string()
    .default("http-01,tls-alpn-01")
    .transform((text) => text.split(",").map((one) => one.trim()))
    .pipe(z.array(z.enum(["http-01", "tls-alpn-01", "dns-01"])).min(1)),
  ACME_DNS_ZONE: z.hostname().toLowerCase().optional(),
});

/** @throws Error when the CA file cannot be read, or an account binding is given by half */
export function readAcmeSettings(config: z.output<typeof AcmeConfig>): AcmeSettings | null {
  if (!config.ACME_DIRECTORY_URL) return null;
  const { ACME_EAB_KID: keyId, ACME_EAB_HMAC_KEY: hmacKey } = config;
  if ((keyId === undefined) !== (hmacKey === undefined))
    throw new Error("ACME_EAB_KID and ACME_EAB_HMAC_KEY belong together: set both or none");
  return {
    directoryUrl: config.ACME_DIRECTORY_URL,
    contact: config.ACME_CONTACT ?? null,
    eab: keyId && hmacKey ? { keyId, hmacKey } : null,
    ca: config.ACME_CA_FILE ? readFileSync(config.ACME_CA_FILE, "utf8") : null,
    challenges: config.ACME_CHALLENGES,
    dnsZone: config.ACME_DNS_ZONE ?? null,
  };
}
