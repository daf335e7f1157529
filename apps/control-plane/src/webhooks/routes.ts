import { randomBytes } from "node:crypto";
import {
  PlatformError,
  webhookRoutes as r,
  type CreateWebhook,
  type UpdateWebhook,
} from "@platform/contract";
import { query, queryOne } from "@platform/postgres";
import { handler, type Call, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { maskedPreview } from "../seal.ts";
import { assertWholeTenant, Conditions, ownWorkspace, page } from "../tenants/index.ts";
import { assertEvents, namesByCategory, workspaceCategories } from "./catalogue.ts";
import { replay, testWebhook } from "./replay.ts";
import { deliveryView, ownWebhook, webhookView, type DeliveryRow, type WebhookRow } from "./store.ts";
import { parseTarget } from "./target.ts";

export interface WebhookSettings {
  /** Lets webhooks lead to private and loopback addresses: for development on one machine. */
  readonly allowPrivate: boolean;
}

const defaultRetries = 5;
const mostWebhooks = 200;

/** Set by the sender itself, or decisive for how the connection is read. */
const ownHeaders =
  /^(?:host|content-length|content-type|transfer-encoding|connection|keep-alive|upgrade|te|trailer|expect|proxy-.*|x-miosa-.*)$/i;

function sealedHeaders(platform: Platform, headers: Record<string, string>) {
  const names = Object.keys(headers);
  const bad = names.filter((name) => ownHeaders.test(name));
  if (bad.length > 0) {
    throw new PlatformError("VALIDATION_FAILED", `headers: ${bad[0]} is set by the platform. Leave it out.`, {
      errors: { headers: bad.map((name) => `${name} is set by the platform`) },
    });
  }
  return { names, sealed: names.length > 0 ? platform.seal.close(JSON.stringify(headers)) : null };
}

async function create(platform: Platform, call: Call<typeof r.create>, settings: WebhookSettings) {
  const { caller } = call;
  const body: CreateWebhook = call.body;
  if (caller.externalUserId !== null) assertWholeTenant(caller, "A webhook");
  const wanted = body.workspace_id ?? caller.workspaceId;
  const workspaceId = wanted ? (await ownWorkspace(platform.pool, caller, wanted)).id : null;
  const events = [...new Set(body.events ?? [])];
  assertEvents(events, workspaceId);
  const secret = body.secret ?? `whsec_${randomBytes(30).toString("base64url")}`;
  const headers = sealedHeaders(platform, body.headers ?? {});
  const count = await queryOne<{ n: string }>(
    platform.pool,
    "select count(*) as n from webhooks where tenant_id = $1",
    [caller.tenantId],
  );
  if (Number(count!.n) >= mostWebhooks)
    throw new PlatformError(
      "QUOTA_EXCEEDED",
      `There are ${mostWebhooks} webhooks, the most possible. Delete one first.`,
    );
  const row = await queryOne<WebhookRow>(
    platform.pool,
    `insert into webhooks (id, tenant_id, workspace_id, url, events, name, description, secret_sealed, secret_preview, active,
       headers_sealed, header_names, retry_count, metadata)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
     on conflict (id) do update set secret_sealed = excluded.secret_sealed, secret_preview = excluded.secret_preview returning *`,
    [
      call.idFor("webhook"),
      caller.tenantId,
      workspaceId,
      parseTarget(body.url, settings.allowPrivate),
      events,
      body.name ?? null,
      body.description ?? null,
      platform.seal.close(secret),
      maskedPreview(secret),
      body.active ?? body.enabled ?? true,
      headers.sealed,
      headers.names,
      body.retry_count ?? defaultRetries,
      body.metadata ?? {},
    ],
  );
  return { ...webhookView(row!), secret };
}

async function update(
  platform: Platform,
  row: WebhookRow,
  body: UpdateWebhook,
  settings: WebhookSettings,
): Promise<WebhookRow> {
  const events = body.events ? [...new Set(body.events)] : row.events;
  if (body.events) assertEvents(events, row.workspace_id);
  const headers = body.headers ? sealedHeaders(platform, body.headers) : null;
  const active =
    body.state !== undefined ? body.state === "active" : (body.active ?? body.enabled ?? row.active);
  const updated = await queryOne<WebhookRow>(
    platform.pool,
    `update webhooks set url = $2, events = $3, name = $4, description = $5, active = $6, headers_sealed = $7, header_names = $8,
       retry_count = $9, metadata = metadata || $10::jsonb, updated_at = now() where id = $1 returning *`,
    [
      row.id,
      body.url === undefined ? row.url : parseTarget(body.url, settings.allowPrivate),
      events,
      body.name ?? row.name,
      body.description ?? row.description,
      active,
      headers ? headers.sealed : row.headers_sealed,
      headers ? headers.names : row.header_names,
      body.retry_count ?? row.retry_count,
      body.metadata ?? {},
    ],
  );
  platform.signals.announce("work:webhooks");
  return updated!;
}

async function deliveries(platform: Platform, call: Call<typeof r.deliveries>) {
  const row = await ownWebhook(platform.pool, call.caller, call.params["id"]!);
  const before = call.query.before;
  if (before !== undefined && Number.isNaN(Date.parse(before)))
    throw new PlatformError("INVALID_FILTER", "before is not a time. Send one such as 2026-01-31T12:00:00Z.");
  const rows = await query<DeliveryRow>(
    platform.pool,
    `select * from webhook_deliveries where webhook_id = $1 and ($2::timestamptz is null or created_at < $2)
     order by created_at desc, id desc limit ${call.query.limit}`,
    [row.id, before ?? null],
  );
  return rows.map(deliveryView);
}

export function webhookHandlers(platform: Platform, settings: WebhookSettings): Handler[] {
  const { pool } = platform;
  return [
    handler(r.catalogue, async () => ({
      data: namesByCategory(),
      events: Object.values(namesByCategory()).flat(),
      workspace_scoped_categories: workspaceCategories,
      signing: {
        header: "X-Miosa-Signature",
        algorithm: "HMAC-SHA256",
        format: "sha256=<hex of the raw body's HMAC>",
      },
      delivery_headers: ["X-Miosa-Event", "X-Miosa-Delivery", "X-Miosa-Signature"],
    })),
    handler(r.list, async ({ caller, query: filter }) => {
      const conditions = new Conditions().add("tenant_id = $?", caller.tenantId);
      if (caller.workspaceId) conditions.add("workspace_id = $?", caller.workspaceId);
      if (filter.workspace_id) conditions.add("workspace_id::text = $?", filter.workspace_id);
      const { rows, next_cursor } = await page<WebhookRow>(pool, "webhooks", conditions, filter);
      return { data: rows.map(webhookView), ...(next_cursor ? { next_cursor } : {}) };
    }),
    handler(r.create, async (call) => create(platform, call, settings)),
    handler(r.get, async ({ caller, params }) => webhookView(await ownWebhook(pool, caller, params["id"]!))),
    handler(r.update, async ({ caller, params, body }) =>
      webhookView(await update(platform, await ownWebhook(pool, caller, params["id"]!), body, settings)),
    ),
    handler(r.remove, async ({ caller, params }) => {
      const row = await ownWebhook(pool, caller, params["id"]!);
      await pool.query("delete from webhooks where id = $1", [row.id]);
      return { id: row.id, deleted: true };
    }),
    handler(r.test, async (call) => testWebhook(platform, call as unknown as Call)),
    handler(r.deliveries, async (call) => deliveries(platform, call)),
    handler(r.replay, async (call) =>
      replay(platform, call as unknown as Call, call.body?.replay_id ?? null),
    ),
  ];
}
