import "reflect-metadata";
import { createHash, randomBytes, webcrypto } from "node:crypto";
import {
  Extension,
  PemConverter,
  SubjectAlternativeNameExtension,
  X509CertificateGenerator,
} from "@peculiar/x509";
import type { IssuedCertificate } from "./authority.ts";

const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;
/** id-pe-acmeIdentifier, RFC 8737 section 3. */
const acmeIdentifier = "1.3.6.1.5.5.7.1.31";
const dayMs = 86_400_000;

/** The self-signed certificate that answers a TLS-ALPN-01 challenge, for the protocol `acme-tls/1` alone. */
export async function challengeCertificate(
  hostname: string,
  keyAuthorization: string,
): Promise<IssuedCertificate> {
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const digest = createHash("sha256").update(keyAuthorization).digest();
  const certificate = await X509CertificateGenerator.createSelfSigned({
    serialNumber: `01${randomBytes(15).toString("hex")}`,
    name: [{ CN: [hostname] }],
    notBefore: new Date(Date.now() - dayMs),
    notAfter: new Date(Date.now() + dayMs),
    keys,
    signingAlgorithm: algorithm,
    extensions: [
      new SubjectAlternativeNameExtension([{ type: "dns", value: hostname }]),
      // An OCTET STRING of 32 bytes.
      new Extension(acmeIdentifier, true, Buffer.concat([Buffer.from([4, digest.length]), digest])),
    ],
  });
  const key = PemConverter.encode(await webcrypto.subtle.exportKey("pkcs8", keys.privateKey), "PRIVATE KEY");
  return { certificate: certificate.toString("pem"), key };
}
