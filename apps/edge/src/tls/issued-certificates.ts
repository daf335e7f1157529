import type { CertificateEntry, CertificatePair, CertificateUpdate } from "@platform/edge-api";
import type { CertificateCopy, IndexEntry } from "./certificate-copy.ts";
import type { CertificateSource } from "./certificate-store.ts";
import type { CertificateRequests } from "./certificate-requests.ts";

export interface IssuedOptions {
  readonly copy: CertificateCopy;
  /** Null: nothing is asked for; another source has certificates for every name. */
  readonly requests: CertificateRequests | null;
  /** Tenant whose route the host name is, or whose domain it lies under; null: nobody's. */
  readonly tenantOf: (hostname: string) => string | null;
  /** A route has exactly this host name: names that only fall under a wildcard are without number. */
  readonly isRouted: (hostname: string) => boolean;
}

const parentWildcard = (hostname: string) => `*${hostname.slice(hostname.indexOf("."))}`;

/**
 * Certificates that the control plane has from an authority or from a tenant. Those at hand are served at
 * once; for a routed name without one the control plane is asked, once, however many handshakes wait.
 */
export class IssuedCertificates implements CertificateSource {
  readonly #options: IssuedOptions;
  readonly #entries = new Map<string, IndexEntry>();
  /** Name → ids of those that have it. */
  readonly #byName = new Map<string, Set<string>>();
  /** Ids that a full update, which comes in parts, has named so far. */
  #full: Set<string> | null = null;
  #version = 0;
  #changes: Promise<void> = Promise.resolve();
  readonly #wanting = new Map<string, Promise<void>>();
  #onChange: (keys: readonly string[]) => Promise<void> = () => Promise.resolve();

  constructor(options: IssuedOptions) {
    this.#options = options;
  }

  /** Version that is in force and on disk here. */
  get version(): number {
    return this.#version;
  }

  get size(): number {
    return this.#entries.size;
  }

  entries(): IterableIterator<IndexEntry> {
    return this.#entries.values();
  }

  /** @param listener is told the keys whose contexts are out of date; a change is in force when it is done */
  onChange(listener: (keys: readonly string[]) => Promise<void>): void {
    this.#onChange = listener;
  }

  async restore(): Promise<void> {
    const { version, entries } = await this.#options.copy.readIndex();
    for (const entry of entries) this.#set(entry);
    this.#version = version;
  }

  keyOf(hostname: string): string | null {
    return this.#find(hostname, Date.now())?.id ?? null;
  }

  async certificate(key: string): Promise<CertificatePair | null> {
    for (;;) {
      const entry = this.#entries.get(key);
      if (!entry) return null;
      try {
        return await this.#options.copy.read(entry);
      } catch (error) {
        // Renewed in this very moment: its older file is gone.
        if (this.#entries.get(key) === entry) throw error;
      }
    }
  }

  async want(hostname: string): Promise<void> {
    const { requests, isRouted } = this.#options;
    if (!requests || !isRouted(hostname)) return;
    const known = this.#wanting.get(hostname);
    if (known) return known;
    // Until it is on disk and found: a handshake in between must not ask once more.
    const wanting = requests
      .ask(hostname)
      .then((granted) => (granted ? this.#inTurn(() => this.#keep(granted)) : undefined))
      .finally(() => this.#wanting.delete(hostname));
    this.#wanting.set(hostname, wanting);
    return wanting;
  }

  /** The same certificate by the name it serves; for a data plane that wants all of them. */
  pair(entry: IndexEntry): Promise<CertificatePair> {
    return this.#options.copy.read(entry);
  }

  /** Takes what the control plane sent; when it resolves it is in force and on disk. */
  apply(update: CertificateUpdate): Promise<void> {
    return this.#inTurn(() => this.#apply(update));
  }

  /** Memory and disk change one after the other: what handshakes asked for and what the feed brings may be the same. */
  #inTurn(change: () => Promise<void>): Promise<void> {
    const done = this.#changes.then(change);
    this.#changes = done.catch(() => undefined); // Its caller is told; the next change goes on.
    return done;
  }

  async #apply(update: CertificateUpdate): Promise<void> {
    const { copy } = this.#options;
    if (update.full) this.#full = new Set();
    const replaced: IndexEntry[] = [];
    for (const { sealed, ...entry } of update.certificates) {
      const known = this.#entries.get(entry.id);
      this.#full?.add(entry.id);
      if (known && known.version >= entry.version && !update.full) continue;
      if (known && known.version !== entry.version) replaced.push(known);
      if (sealed === null) this.#delete(entry.id);
      else {
        await copy.write(entry, sealed);
        this.#set(entry);
      }
    }
    const isWhole = this.#full !== null && !update.more;
    if (isWhole) {
      for (const entry of [...this.#entries.values()]) {
        if (this.#full!.has(entry.id)) continue;
        this.#delete(entry.id);
        replaced.push(entry);
      }
      this.#full = null;
    }
    await this.#onChange(update.certificates.map(({ id }) => id).concat(replaced.map(({ id }) => id)));
    // While a full update goes on, what is on disk is older than any part of it.
    if (this.#full === null && (isWhole || update.certificates.length > 0))
      await copy.writeIndex(update.version, this.#entries.values());
    this.#version = update.version;
    if (isWhole) await copy.sweep(this.#entries.values());
    else if (this.#full === null) await copy.remove(replaced);
  }

  async #keep({ sealed, ...entry }: CertificateEntry): Promise<void> {
    const known = this.#entries.get(entry.id);
    if (sealed === null || (known && known.version >= entry.version)) return;
    await this.#options.copy.write(entry, sealed);
    this.#set(entry);
    await this.#onChange([entry.id]);
  }

  /** The tenant's own before one that we had issued, and this very name before a wildcard. */
  #find(hostname: string, now: number): IndexEntry | null {
    const tenantId = this.#options.tenantOf(hostname);
    let best: IndexEntry | null = null;
    for (const source of ["upload", "acme"] as const)
      for (const name of [hostname, parentWildcard(hostname)])
        for (const id of this.#byName.get(name) ?? []) {
          const entry = this.#entries.get(id)!;
          if (entry.source !== source || entry.notAfter <= now) continue;
          if (source === "upload" && entry.tenantId !== tenantId) continue;
          best ??= entry;
          if (best.source === source && entry.notAfter > best.notAfter) best = entry;
        }
    return best;
  }

  #set(entry: IndexEntry): void {
    this.#delete(entry.id);
    this.#entries.set(entry.id, entry);
    for (const name of entry.names) {
      const ids = this.#byName.get(name) ?? new Set();
      this.#byName.set(name, ids.add(entry.id));
    }
  }

  #delete(id: string): void {
    const entry = this.#entries.get(id);
    if (!entry) return;
    this.#entries.delete(id);
    for (const name of entry.names) {
      const ids = this.#byName.get(name);
      ids?.delete(id);
      if (ids?.size === 0) this.#byName.delete(name);
    }
  }
}
