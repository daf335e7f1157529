import "reflect-metadata";
import { randomBytes, webcrypto, X509Certificate as NodeCertificate } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { isIP } from "node:net";
import { join } from "node:path";
import {
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  PemConverter,
  SubjectAlternativeNameExtension,
  X509Certificate,
  X509CertificateGenerator,
} from "@peculiar/x509";

const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;
const dayMs = 86_400_000;

/** Both in PEM. */
export interface IssuedCertificate {
  readonly certificate: string;
  readonly key: string;
}

export interface Authority {
  /** PEM that clients verify servers with. */
  readonly certificate: string;
  /** Certificate and key for one server, valid for its host names (also `*.NAME`) and addresses. */
  issue(subject: string, names: readonly string[]): Promise<IssuedCertificate>;
}

/** What an authority for development is called: after the brand that its names belong to, and nobody else. */
export const authorityName = (brand: string): string => `${brand} development`;

/**
 * A private certificate authority: made at the first call, then kept in `folder` (key 0600).
 *
 * @param name what the authority is called in its certificate; only used when it is made
 */
export async function openAuthority(folder: string, name: string): Promise<Authority> {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const file = join(folder, "authority.pem");
  if (!existsSync(file)) {
    // Key and certificate in one file: one rename, so that they can never be of two different makings.
    writeFileSync(`${file}.new`, await makeAuthority(name), { mode: 0o600, flush: true });
    renameSync(`${file}.new`, file);
  }
  const pem = readFileSync(file, "utf8");
  const certificate = new NodeCertificate(pem).toString();
  const key = PemConverter.decodeWithHeaders(pem).find(({ type }) => type === "PRIVATE KEY");
  if (!key) throw new Error(`${file} holds no private key. Put it back from a backup.`);
  const signingKey = await webcrypto.subtle.importKey("pkcs8", key.rawData, algorithm, false, ["sign"]);
  return {
    certificate,
    issue: (subject, names) => issue(new X509Certificate(certificate), signingKey, subject, names),
  };
}

async function makeAuthority(name: string): Promise<string> {
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const certificate = await X509CertificateGenerator.createSelfSigned({
    serialNumber: serialNumber(),
    name: [{ CN: [name] }],
    notBefore: new Date(Date.now() - dayMs),
    notAfter: new Date(Date.now() + 7_300 * dayMs),
    keys,
    signingAlgorithm: algorithm,
    extensions: [
      new BasicConstraintsExtension(true, 0, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
    ],
  });
  return `${certificate.toString("pem")}\n${await privateKeyPem(keys.privateKey)}\n`;
}

async function issue(
  authority: X509Certificate,
  signingKey: webcrypto.CryptoKey,
  subject: string,
  names: readonly string[],
): Promise<IssuedCertificate> {
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const alternatives = [...new Set(names)].map((value) =>
    isIP(value) ? ({ type: "ip", value } as const) : ({ type: "dns", value } as const),
  );
  const certificate = await X509CertificateGenerator.create({
    serialNumber: serialNumber(),
    subject: [{ CN: [subject] }],
    issuer: authority.subject,
    notBefore: new Date(Date.now() - dayMs),
    // As long-lived as the server: the authority is private and clients get it with the credentials.
    notAfter: new Date(Math.min(Date.now() + 3_650 * dayMs, authority.notAfter.getTime())),
    publicKey: keys.publicKey,
    signingKey,
    signingAlgorithm: algorithm,
    extensions: [
      new BasicConstraintsExtension(false, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
      new ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth]),
      new SubjectAlternativeNameExtension(alternatives),
    ],
  });
  return { certificate: certificate.toString("pem"), key: await privateKeyPem(keys.privateKey) };
}

async function privateKeyPem(key: webcrypto.CryptoKey): Promise<string> {
  return PemConverter.encode(await webcrypto.subtle.exportKey("pkcs8", key), "PRIVATE KEY");
}

/** Positive and unique, so that two certificates of one authority are never taken for each other. */
const serialNumber = () => `01${randomBytes(15).toString("hex")}`;
