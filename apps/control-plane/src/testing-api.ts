import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import type { TestContext } from "node:test";
import type { FastifyInstance } from "fastify";
import { createLog } from "@platform/daemon";
import { HostClient, type HostAddress } from "@platform/host-api";
import { createPool, migrate } from "@platform/postgres";
import { createTestDatabase } from "@platform/postgres/testing";
import { createServer, type AuditEntry, type Handler } from "./http/index.ts";
import { createAuthenticator, hashSecret, keyHandlers, newSecret } from "./keys/index.ts";
import type { Platform, Settings } from "./platform.ts";
import { migrations } from "./schema.ts";
import { appear } from "./presence.ts";
import { createSeal } from "./seal.ts";
import { Signals } from "./signals.ts";
import { ensureTenant } from "./tenants/index.ts";

export interface Answer {
  readonly status: number;
  /** The parsed JSON; for other content types `{bytes}`. */
  readonly body: Record<string, unknown>;
  readonly headers: Record<string, unknown>;
}

export interface TestApi {
  readonly app: FastifyInstance;
  readonly platform: Platform;
  readonly databaseUrl: string;
  readonly sealKey: string;
  readonly tenantId: string;
  /** Unrestricted key of the first tenant. */
  readonly operator: string;
  call(method: string, path: string, options?: CallOptions): Promise<Answer>;
  /** A second tenant with an unrestricted key. */
  otherTenant(): Promise<{ tenantId: string; key: string }>;
  /** A restricted key of the first tenant, made through the API. */
  key(fields: Record<string, unknown>): Promise<string>;
}

interface CallOptions {
  readonly key?: string;
  readonly body?: unknown;
  readonly headers?: Record<string, string>;
}

interface Options {
  readonly settings?: Partial<Settings>;
  readonly handlers: (platform: Platform) => Handler[];
  readonly host?: HostAddress;
  readonly audit?: (platform: Platform) => (entry: AuditEntry) => void;
  readonly register?: (app: FastifyInstance, platform: Platform) => void;
}

async function operatorKey(platform: Platform, tenantId: string): Promise<string> {
  const { secret } = newSecret("platform");
  await platform.pool.query(
    `insert into api_keys (id, tenant_id, name, hash, key_prefix, last_four, key_type)
     values (gen_random_uuid(), $1, 'Operator', $2, $3, $4, 'platform')`,
    [tenantId, hashSecret(secret), secret.slice(0, 10), secret.slice(-4)],
  );
  return secret;
}

/** The API in this process on a database of its own, with the given handlers and those of keys. */
export async function startTestApi(t: TestContext, options: Options): Promise<TestApi> {
  const database = await createTestDatabase();
  const pool = createPool(database.url, { max: 8 });
  const host = new HostClient(options.host ?? { url: "http://127.0.0.1:9", token: "none" });
  const stopping = new AbortController();
  const presence = await appear(pool, stopping.signal);
  t.after(async () => {
    await host.close();
    stopping.abort();
    await presence.ended;
    await pool.end();
    await database.drop();
  });
  await migrate(pool, migrations);
  const sealKey = randomBytes(32).toString("hex");
  const platform: Platform = {
    log: createLog("test", "silent"),
    pool,
    host,
    seal: createSeal(sealKey),
    signals: new Signals(pool),
    holder: presence.holder,
    settings: {
      publicScheme: "https",
      publicPort: null,
      databaseHostname: "127.0.0.1",
      instanceMemoryBytes: 256 * 1024 * 1024,
      edgeUrl: "http://127.0.0.1:9",
      objectStore: null,
      ...options.settings,
    },
  };
  const tenantId = await ensureTenant(pool, { name: "Clinic", domain: "clinic.example" });
  const operator = await operatorKey(platform, tenantId);
  const app = createServer({
    holder: platform.holder,
    seal: platform.seal,
    log: platform.log,
    pool,
    handlers: [...keyHandlers(platform), ...options.handlers(platform)],
    authenticate: createAuthenticator(platform),
    problemsUrl: () => "https://api.clinic.example/problems",
    audit: options.audit?.(platform) ?? (() => undefined),
  });
  options.register?.(app, platform);
  t.after(() => app.close());
  const call: TestApi["call"] = async (method, path, { key = operator, body, headers = {} } = {}) => {
    const answer = await app.inject({
      method: method as "GET",
      url: path.startsWith("/api/") || path.startsWith("/branding") ? path : `/api/v1${path}`,
      headers: { ...(key === "" ? {} : { authorization: `Bearer ${key}` }), ...headers },
      ...(body === undefined ? {} : { payload: body as Record<string, unknown> }),
    });
    const isJson = String(answer.headers["content-type"]).includes("json");
    return {
      status: answer.statusCode,
      body: isJson ? answer.json<Record<string, unknown>>() : { bytes: answer.rawPayload },
      headers: answer.headers,
    };
  };
  return {
    app,
    platform,
    databaseUrl: database.url,
    sealKey,
    tenantId,
    operator,
    call,
    otherTenant: async () => {
      const other = await ensureTenant(pool, { name: "Other", domain: "other.example" });
      return { tenantId: other, key: await operatorKey(platform, other) };
    },
    key: async (fields) => {
      const answer = await call("POST", "/api-keys", { body: { name: "restricted", ...fields } });
      assert.equal(answer.status, 201, JSON.stringify(answer.body));
      return (answer.body.data as { key: string }).key;
    },
  };
}
