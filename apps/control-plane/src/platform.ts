import type { Log } from "@platform/daemon";
import type { Pool } from "pg";
import type { HostClient } from "@platform/host-api";
import type { Prices } from "./prices.ts";
import type { AcmeSettings } from "./certificates/settings.ts";
import type { Seal } from "./seal.ts";
import type { Signals } from "./signals.ts";

/** Settings that features need; read once in main.ts. */
export interface Settings {
  readonly publicScheme: "http" | "https";
  /** Port in public URLs; null when it is the scheme's own. */
  readonly publicPort: number | null;
  /** Host name in database URLs. */
  readonly databaseHostname: string;
  readonly instanceMemoryBytes: number;
  /** Limits of a build; absent: 8 GiB, and 20 minutes for the build command. */
  readonly buildMemoryBytes?: number;
  readonly buildTimeoutMs?: number;
  readonly edgeUrl: string;
  /** `address:port` of the resolver that proves domains; absent or null: those of this machine. */
  readonly dnsResolver?: string | null;
  /** Between two points of a sandbox's series, milliseconds; absent: half a minute. */
  readonly sampleEveryMs?: number;
  /** Between two logins that prove a database, milliseconds; absent: half a minute. */
  readonly canaryEveryMs?: number;
  /** Where certificates are ordered; absent or null: nowhere. */
  readonly acme?: AcmeSettings | null;
  /** What running costs; absent: nothing is billed. */
  readonly prices?: Prices;
  readonly objectStore: { readonly url: string; readonly token: string } | null;
}

/** What every feature is given. */
export interface Platform {
  readonly log: Log;
  readonly pool: Pool;
  readonly host: HostClient;
  readonly seal: Seal;
  readonly signals: Signals;
  readonly settings: Settings;
  /** Name of this process in leases; see presence.ts. */
  readonly holder: string;
}
