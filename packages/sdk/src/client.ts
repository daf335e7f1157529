import { AgentTools } from "./agent-tools.ts";
import { Databases } from "./databases.ts";
import { Deployments } from "./deployments.ts";
import { Certificates, Domains } from "./domains.ts";
import { Sandboxes } from "./sandboxes.ts";
import { newIdempotencyKey, Transport, type ClientOptions } from "./transport.ts";
import type { ApiKey, Identity, Template, Tenant } from "./types.ts";

export interface Client {
  readonly http: Transport;
  readonly databases: Databases;
  readonly sandboxes: Sandboxes;
  /** Search, replace, patch and git in a sandbox's files. */
  readonly tools: AgentTools;
  readonly deployments: Deployments;
  readonly domains: Domains;
  readonly certificates: Certificates;
  whoami(): Promise<Identity>;
  tenant(): Promise<Tenant>;
  templates(): Promise<Template[]>;
  readonly apiKeys: {
    list(): Promise<ApiKey[]>;
    /** `key` is shown this once. */
    create(body: {
      name: string;
      scopes?: string[];
      expires_in_days?: number;
    }): Promise<ApiKey & { key: string }>;
    delete(id: string): Promise<unknown>;
  };
  close(): Promise<void>;
}

/** @throws TypeError when `baseUrl` is no URL */
export function createClient(options: ClientOptions): Client {
  new URL(options.baseUrl);
  const http = new Transport(options);
  return {
    http,
    databases: new Databases(http),
    sandboxes: new Sandboxes(http),
    tools: new AgentTools(http),
    deployments: new Deployments(http),
    domains: new Domains(http),
    certificates: new Certificates(http),
    whoami: () => http.json<Identity>("GET", "/whoami"),
    tenant: () => http.json<Tenant>("GET", "/platform/tenants/current"),
    templates: () => http.json<Template[]>("GET", "/sandbox-templates"),
    apiKeys: {
      list: () => http.json<ApiKey[]>("GET", "/api-keys"),
      create: (body) =>
        http.json<ApiKey & { key: string }>("POST", "/api-keys", {
          body: { key_type: "user", ...body },
          idempotencyKey: newIdempotencyKey(),
        }),
      delete: (id) => http.json<unknown>("DELETE", `/api-keys/${encodeURIComponent(id)}`),
    },
    close: () => http.close(),
  };
}
