import { sandboxRouteHostname, type Brand, type Route, type RouteUpdate } from "@platform/edge-api";

/** One route as served: `cursor` is the round robin position over its upstreams. */
export interface ServedRoute {
  readonly route: Route;
  cursor: number;
}

/** What the edge keeps on disk: enough to serve without the control plane. */
export interface TableContent {
  readonly version: number;
  readonly brands: Brand[];
  readonly routes: Route[];
  /** Hosts that keep fences for this edge. */
  readonly witnesses: string[];
}

type Listener = () => void;

/**
 * Host name → route, in memory. An update is applied in one synchronous step, so that no request
 * ever sees half of it.
 */
export class RouteTable {
  #version = 0;
  #routes = new Map<string, ServedRoute>();
  #brandsByTenant = new Map<string, Brand>();
  /** Looks of single apps, by deployment or sandbox. */
  #brandsByApp = new Map<string, Brand>();
  #brandsByDomain = new Map<string, Brand>();
  #witnesses: readonly string[] = [];
  readonly #listeners = new Set<Listener>();

  /** Version of the last applied update; 0 before the first. */
  get version(): number {
    return this.#version;
  }

  get size(): number {
    return this.#routes.size;
  }

  get witnesses(): readonly string[] {
    return this.#witnesses;
  }

  /**
   * The name's own route, else the wildcard with the longest suffix.
   *
   * @param hostname normalised, see `normalizeHostname`
   */
  find(hostname: string): ServedRoute | null {
    const own = this.#routes.get(hostname);
    if (own) return own;
    for (let dot = hostname.indexOf("."); dot >= 0; dot = hostname.indexOf(".", dot + 1)) {
      const wildcard = this.#routes.get(`*${hostname.slice(dot)}`);
      if (wildcard) return wildcard;
    }
    return null;
  }

  /** The route that the table keeps under exactly this name. */
  at(hostname: string): ServedRoute | null {
    return this.#routes.get(hostname) ?? null;
  }

  /**
   * The route for the ports of a sandbox, in front of any other: no name of the tenant's choosing can
   * take its place.
   */
  findSandbox(sandboxId: string, domain: string): ServedRoute | null {
    const found = this.#routes.get(sandboxRouteHostname(sandboxId, domain));
    return found?.route.target.type === "sandbox" ? found : null;
  }

  /** The brand with the longest domain that `hostname` equals or ends in. */
  brandOf(hostname: string): Brand | null {
    const domain = this.domainOf(hostname);
    return domain === null ? null : this.#brandsByDomain.get(domain)!;
  }

  /** The longest domain of a tenant that `hostname` equals or ends in. */
  domainOf(hostname: string): string | null {
    for (let name = hostname; ;) {
      if (this.#brandsByDomain.has(name)) return name;
      const dot = name.indexOf(".");
      if (dot < 0) return null;
      name = name.slice(dot + 1);
    }
  }

  /** The app's own look, else its tenant's. */
  brandOfRoute({ tenantId, deploymentId, sandboxId }: Route): Brand | null {
    const app = this.#brandsByApp.get(deploymentId ?? sandboxId ?? "");
    return app?.tenantId === tenantId ? app : (this.#brandsByTenant.get(tenantId) ?? null);
  }

  *routes(): IterableIterator<Route> {
    for (const { route } of this.#routes.values()) yield route;
  }

  /** A `full` update replaces everything, also by a lower version (the control plane was restored). */
  apply(update: RouteUpdate): void {
    if (update.full) {
      this.#routes = new Map();
      this.#brandsByTenant = new Map();
      this.#brandsByApp = new Map();
    }
    this.#applyBrands(update.brands);
    for (const hostname of update.removed) this.#routes.delete(hostname.toLowerCase());
    for (const route of update.routes) {
      this.#routes.set(route.hostname.toLowerCase(), { route, cursor: 0 });
    }
    this.#witnesses = update.witnesses;
    this.#version = update.version;
    for (const listener of [...this.#listeners]) listener();
  }

  /** A tenant comes with the looks of all its apps: those that do not come are gone. */
  #applyBrands(brands: readonly Brand[]): void {
    if (brands.length === 0) return;
    const changed = new Set(brands.map(({ tenantId }) => tenantId));
    for (const [appId, { tenantId }] of this.#brandsByApp)
      if (changed.has(tenantId)) this.#brandsByApp.delete(appId);
    for (const brand of brands) {
      if (brand.appId === null) this.#brandsByTenant.set(brand.tenantId, brand);
      else this.#brandsByApp.set(brand.appId, brand);
    }
    this.#brandsByDomain = new Map();
    const all = [...this.#brandsByTenant.values()];
    const put = (domain: string, brand: Brand) =>
      this.#brandsByDomain.set(domain.toLowerCase().replace(/\.$/, ""), brand);
    for (const brand of all) for (const domain of brand.domains) put(domain, brand);
    // Last, so that nobody's further domain hides another tenant's own.
    for (const brand of all) put(brand.domain, brand);
  }

  content(): TableContent {
    return {
      version: this.#version,
      brands: [...this.#brandsByTenant.values(), ...this.#brandsByApp.values()],
      routes: [...this.routes()],
      witnesses: [...this.#witnesses],
    };
  }

  /** @returns call it to stop listening */
  onChange(listener: Listener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * Resolves with what `pick` returns as soon as that is not null, or with null when the time is
   * over or the signal aborts.
   *
   * @param timeoutMs most time to wait, in milliseconds
   */
  waitUntil<T>(pick: () => T | null, timeoutMs: number, signal: AbortSignal): Promise<T | null> {
    return new Promise((resolve) => {
      const finish = (value: T | null) => {
        clearTimeout(timer);
        unlisten();
        signal.removeEventListener("abort", abandon);
        resolve(value);
      };
      const abandon = () => finish(null);
      const look = () => {
        const value = pick();
        if (value !== null) finish(value);
      };
      const timer = setTimeout(abandon, timeoutMs);
      const unlisten = this.onChange(look);
      signal.addEventListener("abort", abandon, { once: true });
      if (signal.aborted) abandon();
      else look();
    });
  }
}
