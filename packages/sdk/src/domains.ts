import { newIdempotencyKey, type Query, type Transport } from "./transport.ts";

export interface Failure {
  readonly reason: string;
  readonly message: string;
  readonly next_step: string;
}

export interface Certificate {
  readonly id: string;
  readonly name: string;
  readonly names: readonly string[];
  readonly source: "managed" | "uploaded";
  readonly state: "pending" | "issued" | "failed" | "expired";
  readonly issuer: string | null;
  readonly not_after: string | null;
  readonly renews_at: string | null;
  readonly last_error: Failure | null;
  readonly next_try_at: string | null;
}

export interface DnsRecord {
  readonly type: "CNAME" | "TXT";
  readonly name: string;
  readonly value: string;
  readonly purpose?: "routing" | "ownership";
  readonly found: readonly string[];
  readonly verdict: "ok" | "missing" | "differs" | "unreachable" | "unchecked";
}

export interface Domain {
  readonly id: string;
  readonly hostname: string;
  readonly state: "pending" | "failed" | "verified" | "active";
  readonly dns_state: "unchecked" | "pending" | "ok" | "moved_away";
  readonly dns_records: readonly DnsRecord[];
  readonly next_check_at: string;
  readonly deployment_id: string | null;
  readonly redirect_policy: string;
  readonly last_error: { readonly code: string; readonly message: string } | null;
  readonly certificate: Certificate | null;
}

export interface Wildcard {
  readonly name: string;
  readonly record: DnsRecord;
  readonly certificate: Certificate | null;
}

const at = (hostname: string) => `/domains/${encodeURIComponent(hostname)}`;

export class Domains {
  readonly #http: Transport;
  constructor(http: Transport) {
    this.#http = http;
  }

  list = (query?: Query) => this.#http.json<Domain[]>("GET", "/domains", { query });
  /** By host name or id. */
  get = (hostname: string) => this.#http.json<Domain>("GET", at(hostname));
  claim = (
    body: { hostname: string; deployment_id?: string; redirect_policy?: string },
    idempotencyKey = newIdempotencyKey(),
  ) => this.#http.json<Domain>("POST", "/domains", { body, idempotencyKey });
  /** @throws ApiError CNAME_MISMATCH, DNS_LOOKUP_FAILED while the records are not in place */
  verify = (hostname: string) => this.#http.json<Domain>("POST", `${at(hostname)}/verify`, { body: {} });
  assign = (hostname: string, body: { deployment_id: string; redirect_policy?: string }) =>
    this.#http.json<Domain>("POST", `${at(hostname)}/assign`, { body });
  detach = (hostname: string) => this.#http.json<Domain>("POST", `${at(hostname)}/detach`, { body: {} });
  delete = (hostname: string) => this.#http.json<unknown>("DELETE", at(hostname));
}

export class Certificates {
  readonly #http: Transport;
  constructor(http: Transport) {
    this.#http = http;
  }

  list = (query?: Query) => this.#http.json<Certificate[]>("GET", "/certificates", { query });
  /** By id, or by a host name that it serves. */
  get = (id: string) => this.#http.json<Certificate>("GET", `/certificates/${encodeURIComponent(id)}`);
  upload = (body: { certificate: string; private_key: string }, idempotencyKey = newIdempotencyKey()) =>
    this.#http.json<Certificate>("POST", "/certificates", { body, idempotencyKey });
  delete = (id: string) => this.#http.json<unknown>("DELETE", `/certificates/${encodeURIComponent(id)}`);
  wildcards = () => this.#http.json<Wildcard[]>("GET", "/certificates/wildcards");
  /** Looks at DNS now. */
  checkWildcards = () => this.#http.json<Wildcard[]>("POST", "/certificates/wildcards/check", { body: {} });
}
