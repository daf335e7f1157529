import { PlatformError, notFound } from "@platform/contract";
import { queryOne } from "@platform/postgres";
import type { Call } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { isUuid } from "../tenants/index.ts";
import { deliveryView, ownWebhook, type DeliveryRow } from "./store.ts";

/** How long the test call waits for the receiver's answer, milliseconds. */
const testWaitMs = 5_000;

const loadDelivery = (platform: Platform, id: string) =>
  queryOne<DeliveryRow>(platform.pool, "select * from webhook_deliveries where id = $1", [id]);

/** Sends one event to one webhook, and waits a moment so that the answer usually has the outcome. */
export async function testWebhook(platform: Platform, call: Call) {
  const webhook = await ownWebhook(platform.pool, call.caller, call.params["id"]!);
  if (!webhook.active)
    throw new PlatformError("CONFLICT", "The webhook is inactive. Set active to true, then test it.");
  const id = call.idFor("delivery");
  await platform.pool.query(
    `insert into webhook_deliveries (id, webhook_id, tenant_id, event_id, event_type, data, occurred_at)
     values ($1, $2, $3, $1, 'webhook.test', $4, now()) on conflict (id) do nothing`,
    [id, webhook.id, webhook.tenant_id, { webhook_id: webhook.id, message: "A test of this webhook" }],
  );
  platform.signals.announce("work:webhooks");
  const settled = await platform.signals.until(
    `webhook-delivery:${id}`,
    testWaitMs,
    async () => {
      const row = await loadDelivery(platform, id);
      return row && row.state !== "pending" ? row : undefined;
    },
    call.signal,
  );
  return deliveryView(settled ?? (await loadDelivery(platform, id))!);
}

/** @throws PlatformError NOT_FOUND, REPLAY_NOT_POSSIBLE */
export async function replay(platform: Platform, call: Call, replayId: string | null) {
  const webhook = await ownWebhook(platform.pool, call.caller, call.params["id"]!);
  const deliveryId = call.params["did"]!;
  const original = isUuid(deliveryId)
    ? await queryOne<DeliveryRow>(
        platform.pool,
        "select * from webhook_deliveries where id = $1 and webhook_id = $2",
        [deliveryId, webhook.id],
      )
    : null;
  if (!original) throw notFound(`Delivery ${deliveryId.slice(0, 100)}`);
  if (!webhook.active)
    throw new PlatformError(
      "REPLAY_NOT_POSSIBLE",
      "The webhook is inactive. Set active to true, then replay.",
    );
  const id = call.idFor("replay");
  const row = await queryOne<DeliveryRow>(
    platform.pool,
    `insert into webhook_deliveries (id, webhook_id, tenant_id, event_id, event_type, data, occurred_at, replay_of, replay_id)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict do nothing returning *`,
    [
      id,
      webhook.id,
      webhook.tenant_id,
      original.event_id,
      original.event_type,
      original.data,
      original.occurred_at,
      original.replay_of ?? original.id,
      replayId,
    ],
  );
  const stored = row ?? (await loadDelivery(platform, id));
  if (!stored)
    throw new PlatformError(
      "REPLAY_NOT_POSSIBLE",
      "This replay_id was used before. Send a new one to replay again.",
    );
  platform.signals.announce("work:webhooks");
  return deliveryView(stored);
}
