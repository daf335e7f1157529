import type { CertificatePair } from "@platform/edge-api";
import { certificateList, certificatesMap } from "./config.ts";
import type { Runtime } from "./runtime.ts";

/** Names whose certificates HAProxy has; beyond, the Node edge answers handshakes. */
const MAX_NAMES = 5_000;
const MAX_WAITING = 5_000;
/** Each costs HAProxy some milliseconds, in which it serves nobody. */
const BATCH = 20;

export interface Certificates {
  /** Another one as soon as the name is served with another certificate; `null`: there is none now. */
  slotOf(hostname: string): string | null;
  pairOf(hostname: string): Promise<CertificatePair | null>;
}

interface Kept {
  readonly file: string;
  readonly slot: string;
}

/**
 * The certificates of names that somebody asked for, in HAProxy's memory alone. A name is in its map only as
 * long as the Node edge would serve it with the same certificate.
 */
export class HotCertificates {
  readonly #folder: string;
  readonly #runtime: Runtime;
  readonly #certificates: Certificates;
  readonly #kept = new Map<string, Kept>();
  readonly #waiting = new Set<string>();
  /** Out of the map; connections may still be using them. */
  readonly #old: string[] = [];
  #made = 0;
  #changes = 0;

  constructor(folder: string, runtime: Runtime, certificates: Certificates) {
    this.#folder = folder;
    this.#runtime = runtime;
    this.#certificates = certificates;
  }

  get size(): number {
    return this.#kept.size;
  }

  /** The Node edge answered a handshake for the name. */
  noticed(hostname: string): void {
    if (this.#kept.has(hostname) || this.#waiting.size >= MAX_WAITING) return;
    // It has to be one word of a command.
    if (/^[a-z0-9.-]{1,253}$/.test(hostname)) this.#waiting.add(hostname);
  }

  async promote(): Promise<void> {
    for (const hostname of [...this.#waiting].slice(0, BATCH)) {
      this.#waiting.delete(hostname);
      if (!this.#kept.has(hostname) && this.#kept.size < MAX_NAMES) await this.#add(hostname);
    }
  }

  /**
   * Takes out names that are served with another certificate now. Resolves once HAProxy has forgotten them.
   *
   * @param changed what certificates are kept under that are not what they were
   */
  async recheck(changed: readonly string[] = []): Promise<void> {
    this.#changes++;
    const keys = new Set(changed);
    for (const [hostname, { file, slot }] of this.#kept) {
      const isSame = this.#certificates.slotOf(hostname) === slot;
      if (isSame && !keys.has(slot.slice(slot.indexOf(" ") + 1))) continue;
      this.#kept.delete(hostname);
      await this.#runtime.tell(
        `del map ${certificatesMap(this.#folder)} ${hostname}`,
        /^(Key not found\.)?$/,
      );
      // Its successor will have the same name.
      await this.#runtime.ask(`del ssl crt-list ${certificateList(this.#folder)} ${file}`);
      this.#old.push(file);
    }
  }

  /** Frees what no name leads to any more. */
  async sweep(): Promise<void> {
    for (const file of this.#old.splice(0)) {
      const answer = await this.#runtime.ask(`del ssl cert ${file}`);
      // It is still needed: the next round tries again.
      if (/in use|can't/i.test(answer)) this.#old.push(file);
    }
  }

  async #add(hostname: string): Promise<void> {
    const changes = this.#changes;
    const slot = this.#certificates.slotOf(hostname);
    const pair = slot === null ? null : await this.#certificates.pairOf(hostname);
    if (slot === null || !pair) return;
    const file = `${this.#folder}/name-${++this.#made}.pem`;
    const pem = `${pair.certificate.trim()}\n${pair.key.trim()}`.replaceAll(/\n\s*\n/g, "\n");
    await this.#runtime.tell(`new ssl cert ${file}`, /New empty certificate/);
    try {
      await this.#runtime.tell(`set ssl cert ${file} <<\n${pem}\n`, /Transaction created/);
      await this.#runtime.tell(`commit ssl cert ${file}`, /Success!/);
    } catch (error) {
      await this.#runtime.ask(`abort ssl cert ${file}`);
      this.#old.push(file);
      throw error;
    }
    const list = certificateList(this.#folder);
    await this.#runtime.tell(`add ssl crt-list ${list} <<\n${file} ${hostname}\n`, /Success!/);
    // It may have changed while it was on its way.
    if (changes !== this.#changes) {
      await this.#runtime.ask(`del ssl crt-list ${list} ${file}`);
      this.#old.push(file);
      return;
    }
    this.#kept.set(hostname, { file, slot });
    await this.#runtime.tell(`add map ${certificatesMap(this.#folder)} ${hostname} 1`);
  }
}
