import { connect as tlsConnect, type DetailedPeerCertificate } from "node:tls";
import type { Connection } from "./ask.ts";
import type { Findings } from "./findings.ts";

/** Looks at the certificate for a host name and at all that signed it. @throws when nothing answers */
export async function readCertificate(
  hostname: string,
  port: number,
  { connectTo, timeoutMs }: Connection,
  findings: Findings,
): Promise<void> {
  const [dialHost, dialPort] = connectTo?.split(":") ?? [];
  const host = dialHost ?? (/(?:^|\.)localhost$/.test(hostname) ? "127.0.0.1" : hostname);
  const socket = tlsConnect({
    ...{ host, port: Number(dialPort ?? port), servername: hostname, rejectUnauthorized: false },
  });
  try {
    await new Promise<void>((resolve, reject) => {
      socket.setTimeout(timeoutMs, () => reject(new Error("no handshake in time")));
      socket.once("secureConnect", resolve).once("error", reject);
    });
    let one: DetailedPeerCertificate | undefined = socket.getPeerCertificate(true);
    for (let depth = 0; one?.raw && depth < 6; depth++) {
      const place = `certificate ${hostname}${depth === 0 ? "" : ` (issuer ${depth})`}`;
      const said = {
        subject: one.subject,
        issuer: one.issuer,
        names: one.subjectaltname,
        info: one.infoAccess,
      };
      findings.text(place, "certificate", JSON.stringify(said));
      // Extensions that Node does not read, such as policies and comments.
      findings.bytes(place, "certificate", one.raw);
      one = one.issuerCertificate === one ? undefined : one.issuerCertificate;
    }
  } finally {
    socket.destroy();
  }
}
