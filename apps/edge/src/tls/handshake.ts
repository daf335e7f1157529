import type { SecureContextOptions, TlsOptions } from "node:tls";
import type { TLSSocket } from "node:tls";
import type { Log } from "@platform/daemon";
import { normalizeHostname } from "../routes/index.ts";
import { acmeProtocol, type AcmeChallenges } from "./acme-challenges.ts";
import type { CertificateStore } from "./certificate-store.ts";

/** In the order of our preference. */
const protocols = ["h2", "http/1.1"] as const;
const HANDSHAKE_MS = 30_000;

/**
 * How a handshake is answered: protocol by what the client offers, certificate by the name it asks for.
 * An authority that looks for a challenge (RFC 8737) offers `acme-tls/1` alone and gets the challenge's
 * certificate; ordinary clients of the same name, at the same time, get the ordinary one.
 */
export function handshakeOptions(
  certificates: CertificateStore,
  challenges: AcmeChallenges,
  log: Log,
  /** Hears of the names that certificates were served for. */
  served: (hostname: string) => void = () => undefined,
): TlsOptions & SecureContextOptions {
  const validating = new WeakSet<object>();
  return {
    handshakeTimeout: HANDSHAKE_MS,
    minVersion: "TLSv1.2",
    // Both are called on the socket, the protocol before the name.
    ALPNCallback(this: unknown, offered: { servername: string; protocols: string[] }) {
      const isChallenge =
        offered.protocols.length === 1 &&
        offered.protocols[0] === acmeProtocol &&
        challenges.hasTls(normalizeHostname(offered.servername) ?? "");
      if (isChallenge) {
        validating.add(this as object);
        return acmeProtocol;
      }
      return protocols.find((name) => offered.protocols.includes(name));
    },
    SNICallback(this: unknown, name: string, done: (error: Error | null, context?: never) => void) {
      const hostname = normalizeHostname(name) ?? "";
      if (validating.has(this as object)) {
        done(null, challenges.tls(hostname) as never);
        return;
      }
      // Without a context there is no certificate to serve: the client gets an alert that says so.
      certificates.contextFor(hostname).then(
        (context) => {
          if (context) served(hostname);
          done(null, (context ?? undefined) as never);
        },
        (error: Error) => {
          log.error({ hostname, err: error }, "a certificate could not be served");
          done(null);
        },
      );
    },
  } as TlsOptions & SecureContextOptions;
}

/** The authority has seen the certificate: there is nothing more to say on such a connection. */
export const isChallengeConnection = (socket: TLSSocket): boolean => socket.alpnProtocol === acmeProtocol;
