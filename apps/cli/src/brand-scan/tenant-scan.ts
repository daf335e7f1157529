import {
  ask,
  crawl,
  Findings,
  read,
  readCertificate,
  readDns,
  type Asked,
  type Connection,
  type Extra,
} from "@platform/brand-scan";

export interface TenantScan {
  /** Origin of the API. */
  readonly endpoint: string;
  readonly apiKey: string;
  readonly connection: Connection;
  /** Name servers to ask; empty: what name servers say is not looked at. */
  readonly dnsServers: readonly string[];
  /** A running sandbox to look into; null: the first one that runs. */
  readonly sandbox: string | null;
  readonly extra: readonly Extra[];
  readonly progress: (text: string) => void;
}

export interface ScanReport {
  readonly domain: string;
  readonly looked_at: number;
  readonly pages: number;
  readonly findings: Findings["all"];
  /** What did not answer: it may show names all the same. */
  readonly unreached: readonly string[];
  /** What there was none of, or what nobody named. */
  readonly not_looked_at: readonly string[];
}

type Row = Readonly<Record<string, unknown>>;

/** What a key may read; refusals and errors say names too. */
const reads = [
  ...["/whoami", "/platform/tenants/current", "/tenant/plan", "/settings/branding", "/tenant/branding"],
  ...["/tenant/preview-domain", "/tenant/deployment-domain", "/workspaces", "/projects", "/sandboxes"],
  ...["/sandbox-templates", "/templates", "/deployments", "/databases", "/domains", "/storage/buckets"],
  ...["/webhooks", "/webhooks/events", "/platform-events", "/cron-jobs", "/api-keys", "/regions", "/usage"],
  ...["/no-such-path", "/sandboxes/no-such-id", "/deployments/00000000-0000-4000-8000-000000000000"],
];
const wrongCalls: readonly (readonly [path: string, asked: Asked])[] = [
  ["/sandboxes", { method: "POST", body: "{" }],
  ["/sandboxes", { method: "POST", body: '{"template_id":"no-such-template"}' }],
  ["/deployments", { method: "POST", body: '{"name":1}' }],
  ["/databases", { method: "POST", body: '{"name":"x","engine":"oracle"}' }],
  ["/domains", { method: "POST", body: '{"hostname":"not a name"}' }],
  ["/sandboxes", { method: "DELETE" }],
  ["/sandboxes", { method: "POST", headers: { "content-type": "text/xml" }, body: "<a/>" }],
];
/** What a program in a sandbox can learn about where it runs. */
const insideCommand =
  "env; uname -a; hostname; cat /etc/hosts /etc/resolv.conf /etc/os-release /proc/mounts /proc/1/cmdline 2>/dev/null; ps ax 2>/dev/null; true";

/** Passwords of addresses are no evidence of anything. */
const masked = (text: string): string => text.replace(/:\/\/([^:@/\s"]+):[^@/\s"]+@/g, "://$1:***@");

/** Looks at everything of a tenant that its users can see. */
export class TenantScanner {
  readonly #scan: TenantScan;
  readonly #findings: Findings;
  readonly #unreached: string[] = [];
  readonly #notLookedAt: string[] = ["e-mail: the platform sends none"];

  constructor(scan: TenantScan) {
    this.#scan = scan;
    this.#findings = new Findings(scan.extra);
  }

  /** Slug of the tenant that the key belongs to. */
  async tenant(): Promise<string> {
    const tenant = await this.#row("/platform/tenants/current");
    return String(tenant["slug"] ?? "");
  }

  async run(): Promise<ScanReport> {
    const { progress } = this.#scan;
    progress("answers of the API");
    await this.#answers();
    progress("sandboxes, databases, buckets and hooks");
    await this.#inside();
    await this.#resources();
    progress("pages");
    const domain = new URL(this.#scan.endpoint).hostname.replace(/^api\./, "");
    const urls = await this.#hosts(domain);
    const crawled = await crawl(
      { urls, connection: this.#scan.connection, mostPages: 2_000 },
      this.#findings,
    );
    await this.#apps();
    progress("certificates and name servers");
    await this.#names(urls);
    return {
      domain,
      looked_at: this.#findings.looked,
      pages: crawled.pages,
      findings: this.#findings.all,
      unreached: [...this.#unreached, ...crawled.unreached],
      not_looked_at: this.#notLookedAt,
    };
  }

  /** Texts that are no part of the API, such as what a program prints. */
  text(where: string, part: string, text: string): void {
    this.#findings.text(where, part, text);
  }

  program(where: string, text: string): void {
    this.#findings.program(where, text);
  }

  async #call(path: string, asked: Asked = {}): Promise<unknown> {
    const { endpoint, apiKey, connection } = this.#scan;
    const url = `${endpoint}/api/v1${path}`;
    const headers = {
      ...{ authorization: `Bearer ${apiKey}`, accept: "application/json", "accept-encoding": "identity" },
      ...(asked.body === undefined ? {} : { "content-type": "application/json" }),
      ...asked.headers,
    };
    const answer = await ask(url, { ...asked, headers }, connection);
    const body = Buffer.from(masked(answer.body.toString("utf8")));
    read({ ...answer, body }, `${asked.method ?? "GET"} ${url}`, this.#findings);
    try {
      return JSON.parse(answer.body.toString("utf8")) as unknown;
    } catch {
      return null; // No JSON: it was looked at as it is.
    }
  }

  async #try(path: string, asked?: Asked): Promise<unknown> {
    try {
      return await this.#call(path, asked);
    } catch (error) {
      this.#unreached.push(`${path}: ${error instanceof Error ? error.message : String(error)}`);
      return null;
    }
  }

  async #row(path: string, asked?: Asked): Promise<Row> {
    const body = (await this.#try(path, asked)) as Row | null;
    return ((body?.["data"] ?? body) as Row | null) ?? {};
  }

  async #rows(path: string): Promise<Row[]> {
    const body = (await this.#try(path)) as { data?: unknown } | null;
    return Array.isArray(body?.data) ? (body.data as Row[]) : [];
  }

  async #answers(): Promise<void> {
    for (const path of reads) await this.#try(path);
    for (const [path, asked] of wrongCalls) await this.#try(path, asked);
    for (const authorization of ["", "Bearer msk_u_wrong"])
      await this.#try("/whoami", { headers: { authorization } });
  }

  async #inside(): Promise<void> {
    const id =
      this.#scan.sandbox ?? (await this.#rows("/sandboxes")).find(({ state }) => state === "running")?.["id"];
    if (typeof id !== "string") {
      this.#notLookedAt.push("inside a sandbox: none runs (name one with --sandbox)");
      return;
    }
    await this.#try(`/sandboxes/${encodeURIComponent(id)}`);
    const body = JSON.stringify({ command: insideCommand, timeout: 20 });
    const { stdout } = await this.#row(`/sandboxes/${encodeURIComponent(id)}/exec`, { method: "POST", body });
    const lines = typeof stdout === "string" ? stdout.split("\n") : [];
    if (lines.length < 2) this.#unreached.push("inside the sandbox: the command printed nothing");
    const pairs = lines.flatMap((line) => {
      const found = /^([A-Za-z_][A-Za-z0-9_]*)=(.*)$/.exec(line);
      return found ? [[found[1]!, masked(found[2]!)]] : [];
    });
    this.#findings.variables("sandbox environment", Object.fromEntries(pairs) as Record<string, string>);
    this.#findings.text("inside the sandbox", "what programs see", masked(lines.join("\n")));
  }

  async #resources(): Promise<void> {
    const of = async (path: string, what: string, look: (id: string) => Promise<unknown>) => {
      const rows = await this.#rows(path);
      if (rows.length === 0) this.#notLookedAt.push(`${what}: there is none`);
      for (const row of rows.slice(0, 20)) await look(encodeURIComponent(String(row["id"] ?? row["name"])));
    };
    await of("/databases", "connection strings", async (id) => this.#try(`/databases/${id}/credentials`));
    await of("/storage/buckets", "presigned addresses", async (id) => {
      const body = JSON.stringify({ key: "scan", method: "GET" });
      await this.#try(`/storage/buckets/${id}/presign`, { method: "POST", body });
    });
    await of("/webhooks", "calls of hooks", async (id) => this.#try(`/webhooks/${id}/deliveries`));
    await of("/deployments", "releases and logs", async (id) => {
      for (const part of ["", "/releases", "/builds", "/logs", "/request-logs", "/runtime-instances"])
        await this.#try(`/deployments/${id}${part}`, { headers: { accept: "application/json" } });
    });
  }

  /** The API, and a name under each domain at which there is no app. */
  async #hosts(domain: string): Promise<string[]> {
    const { protocol, port } = new URL(this.#scan.endpoint);
    const previews = (await this.#row("/tenant/preview-domain"))["active_domain"];
    const deployments = (await this.#row("/tenant/deployment-domain"))["active_domain"];
    const nobody = "no-such-app-0";
    const names = new Set([
      new URL(this.#scan.endpoint).hostname,
      `${nobody}.${String(deployments ?? domain)}`,
      `${nobody}.sandbox.${String(previews ?? domain)}`,
      `3000-${nobody}.sandbox.${String(previews ?? domain)}`,
      `49983-00000000-0000-4000-8000-000000000000.sandbox.${domain}`,
      `s3.${domain}`,
    ]);
    return [...names].map((name) => `${protocol}//${name}${port ? `:${port}` : ""}/`);
  }

  /** Of an app only what the platform says: its own pages are its own words. */
  async #apps(): Promise<void> {
    const urls = new Set<string>();
    for (const row of await this.#rows("/deployments"))
      if (typeof row["public_url"] === "string") urls.add(row["public_url"]);
    for (const { id } of (await this.#rows("/sandboxes")).slice(0, 50))
      for (const row of await this.#rows(`/sandboxes/${encodeURIComponent(String(id))}/previews`))
        if (typeof row["url"] === "string") urls.add(row["url"]);
    for (const url of urls) {
      for (const accept of ["text/html", "application/json"]) {
        try {
          const answer = await ask(url, { headers: { accept } }, this.#scan.connection);
          const isPlatform = answer.headers["x-edge-page"] !== undefined;
          read(
            isPlatform ? answer : { ...answer, body: Buffer.alloc(0) },
            `GET ${url} (${accept})`,
            this.#findings,
          );
        } catch (error) {
          this.#unreached.push(`${url}: ${error instanceof Error ? error.message : String(error)}`);
        }
      }
    }
    if (urls.size === 0) this.#notLookedAt.push("apps: there is neither a deployment nor a preview");
  }

  async #names(urls: readonly string[]): Promise<void> {
    const { connection, dnsServers } = this.#scan;
    for (const url of urls) {
      const { hostname, protocol, port } = new URL(url);
      if (protocol === "https:") {
        await readCertificate(hostname, Number(port || 443), connection, this.#findings).catch(
          (error: Error) => this.#unreached.push(`certificate ${hostname}: ${error.message}`),
        );
      }
      if (dnsServers.length > 0)
        this.#unreached.push(...(await readDns(hostname, dnsServers, this.#findings)));
    }
    if (!urls.some((url) => url.startsWith("https:")))
      this.#notLookedAt.push("certificates: the API has none");
    if (dnsServers.length === 0) this.#notLookedAt.push("name servers: name one with --dns");
  }
}
