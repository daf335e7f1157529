import { createSecureContext, type SecureContext } from "node:tls";
import type { CertificatePair } from "@platform/edge-api";

/** Where certificates come from: an authority of one's own, a folder, or one who fetches them. */
export interface CertificateSource {
  /**
   * What the certificate for this host name is kept under: names that share one have the same key.
   * Null when the source has none for the name.
   */
  keyOf(hostname: string): string | null;
  /** Called once for each key as long as its result is kept. */
  certificate(key: string): Promise<CertificatePair | null>;
  /** Fetches one for a name that has none. When it resolves, `keyOf` says whether there is one now. */
  want?(hostname: string): Promise<void>;
}

/** A context costs 2 to 3 ms and 25 KB: all of ten thousand at once would stop the edge for half a minute. */
const MAX_CONTEXTS = 500;

/**
 * TLS contexts by host name, each built when it is first asked for. The least recently used go first
 * when there are too many. A failure is not kept: the next handshake asks again.
 */
export class CertificateStore {
  readonly #sources: readonly CertificateSource[];
  readonly #contexts = new Map<string, Promise<SecureContext | null>>();

  /** @param sources in the order to ask them */
  constructor(sources: readonly CertificateSource[]) {
    this.#sources = sources;
  }

  /** @returns null when no source has a certificate for the name: the handshake then fails */
  async contextFor(hostname: string): Promise<SecureContext | null> {
    for (const [index, source] of this.#sources.entries()) {
      let key = source.keyOf(hostname);
      if (key === null && source.want) {
        await source.want(hostname);
        key = source.keyOf(hostname);
      }
      if (key === null) continue;
      const context = await this.#context(`${index} ${key}`, () => source.certificate(key));
      if (context) return context;
    }
    return null;
  }

  /** What the name's certificate is kept under, by the first source that has one now. */
  slotOf(hostname: string): string | null {
    for (const [index, source] of this.#sources.entries()) {
      const key = source.keyOf(hostname);
      if (key !== null) return `${index} ${key}`;
    }
    return null;
  }

  /** The certificate itself, for a front that answers handshakes in this program's place. */
  async pairOf(hostname: string): Promise<CertificatePair | null> {
    for (const source of this.#sources) {
      const key = source.keyOf(hostname);
      if (key !== null) return source.certificate(key);
    }
    return null;
  }

  /** Forgets every context, so that renewed certificates are taken up. Open connections keep theirs. */
  clear(): void {
    this.#contexts.clear();
  }

  /** The next handshake for these keys builds its context anew. Open connections keep theirs. */
  forget(source: CertificateSource, keys: readonly string[]): void {
    const index = this.#sources.indexOf(source);
    for (const key of keys) this.#contexts.delete(`${index} ${key}`);
  }

  #context(slot: string, load: () => Promise<CertificatePair | null>): Promise<SecureContext | null> {
    const known = this.#contexts.get(slot);
    this.#contexts.delete(slot);
    const context = known ?? build(load);
    this.#contexts.set(slot, context);
    if (this.#contexts.size > MAX_CONTEXTS) this.#contexts.delete(this.#contexts.keys().next().value!);
    if (!known) {
      const forget = () => {
        if (this.#contexts.get(slot) === context) this.#contexts.delete(slot);
      };
      context.then((made) => (made ? undefined : forget()), forget);
    }
    return context;
  }
}

async function build(load: () => Promise<CertificatePair | null>): Promise<SecureContext | null> {
  const found = await load();
  return found
    ? createSecureContext({ cert: found.certificate, key: found.key, minVersion: "TLSv1.2" })
    : null;
}
