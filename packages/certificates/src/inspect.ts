import { createPrivateKey, X509Certificate, type KeyObject } from "node:crypto";

/** What a chain and its key say about themselves. */
export interface Inspected {
  /** The chain as it is served: the server's certificate first, PEM. */
  readonly certificate: string;
  /** PKCS #8, PEM. */
  readonly key: string;
  /** Host names that it is for, lower case, also `*.NAME`. */
  readonly names: readonly string[];
  readonly notBefore: Date;
  readonly notAfter: Date;
  /** SHA-256 of the certificate, hexadecimal. */
  readonly fingerprint: string;
  readonly issuer: string;
}

export type CertificateFault =
  | "certificate_malformed"
  | "key_malformed"
  | "key_mismatch"
  | "key_too_weak"
  | "chain_broken"
  | "expired"
  | "not_yet_valid"
  | "no_names"
  | "not_for_servers";

/** Why a certificate cannot be served; the key is never part of it. */
export class CertificateRefused extends Error {
  readonly fault: CertificateFault;

  constructor(fault: CertificateFault, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "CertificateRefused";
    this.fault = fault;
  }
}

const maxChain = 10;
const serverAuth = "1.3.6.1.5.5.7.3.1";

/** @throws CertificateRefused `certificate_malformed` */
export function splitChain(pem: string): X509Certificate[] {
  const blocks = pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  if (blocks.length === 0 || blocks.length > maxChain)
    throw new CertificateRefused(
      "certificate_malformed",
      `expected 1 to ${maxChain} certificates in PEM, found ${blocks.length}`,
    );
  return blocks.map((block, index) => {
    try {
      return new X509Certificate(block);
    } catch (cause) {
      throw new CertificateRefused("certificate_malformed", `certificate ${index + 1} cannot be read`, {
        cause,
      });
    }
  });
}

/** Host names of the subject alternative names; a common name alone has not counted for long. */
export function namesOf(certificate: X509Certificate): string[] {
  const entries = (certificate.subjectAltName ?? "").split(", ");
  const names = entries.flatMap((entry) => (entry.startsWith("DNS:") ? [entry.slice(4).toLowerCase()] : []));
  return [...new Set(names)];
}

function readKey(pem: string): KeyObject {
  try {
    return createPrivateKey(pem);
  } catch {
    // The library's words may quote what they could not read.
    throw new CertificateRefused(
      "key_malformed",
      "the private key cannot be read: it must be PEM, without a passphrase",
    );
  }
}

function assertStrong(key: KeyObject): void {
  const { modulusLength, namedCurve } = key.asymmetricKeyDetails ?? {};
  const type = key.asymmetricKeyType;
  const ok =
    (type === "rsa" && (modulusLength ?? 0) >= 2_048) ||
    (type === "ec" && ["prime256v1", "secp384r1", "secp521r1"].includes(namedCurve ?? "")) ||
    type === "ed25519";
  if (!ok)
    throw new CertificateRefused("key_too_weak", "the key must be RSA of 2,048 bits or more, P-256 or P-384");
}

function assertChain(chain: readonly X509Certificate[]): void {
  for (const [index, lower] of chain.slice(0, -1).entries()) {
    const upper = chain[index + 1]!;
    if (lower.checkIssued(upper) && lower.verify(upper.publicKey)) continue;
    throw new CertificateRefused(
      "chain_broken",
      `certificate ${index + 2} did not issue certificate ${index + 1}: the server's own comes first, then each issuer`,
    );
  }
}

/**
 * Checks what somebody brings: chain in order, key fits, valid now, for servers, with names.
 *
 * @throws CertificateRefused
 */
export function inspectCertificate(chainPem: string, keyPem: string, now = new Date()): Inspected {
  const chain = splitChain(chainPem);
  const leaf = chain[0]!;
  const key = readKey(keyPem);
  if (!leaf.checkPrivateKey(key))
    throw new CertificateRefused("key_mismatch", "the private key belongs to another certificate");
  assertStrong(key);
  assertChain(chain);
  const [notBefore, notAfter] = [new Date(leaf.validFrom), new Date(leaf.validTo)];
  const late = chain.find((one) => new Date(one.validTo) <= now);
  if (late) throw new CertificateRefused("expired", `a certificate of the chain ended on ${late.validTo}`);
  if (notBefore > now) throw new CertificateRefused("not_yet_valid", `it begins on ${leaf.validFrom}`);
  const uses = leaf.keyUsage as readonly string[] | undefined;
  if (leaf.ca || (uses && uses.length > 0 && !uses.includes(serverAuth)))
    throw new CertificateRefused("not_for_servers", "it may not be used by a server");
  const names = namesOf(leaf);
  if (names.length === 0)
    throw new CertificateRefused("no_names", "it has no host name among its subject alternative names");
  return {
    certificate: chain.map((one) => one.toString()).join(""),
    key: key.export({ type: "pkcs8", format: "pem" }) as string,
    names,
    notBefore,
    notAfter,
    fingerprint: leaf.fingerprint256.replaceAll(":", "").toLowerCase(),
    issuer: (/^CN=(.+)$/m.exec(leaf.issuer) ?? /^O=(.+)$/m.exec(leaf.issuer))?.[1] ?? "unnamed",
  };
}
