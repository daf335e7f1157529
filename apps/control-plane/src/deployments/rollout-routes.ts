import { PlatformError, RetentionRules, notFound, rolloutRoutes as r } from "@platform/contract";
import { query, queryOne } from "@platform/postgres";
import { record } from "../events/index.ts";
import { handler, type Call, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { loadRelease, releaseView } from "../releases/index.ts";
import { Conditions, isUuid, page } from "../tenants/index.ts";
import {
  approvePromotion,
  cancelPromotion,
  loadPromotion,
  promotionView,
  type PromotionRow,
} from "./promotions.ts";
import { rulesOf } from "./retention.ts";
import { deploymentView, eventOf, loadDeployment, ownDeployment, wantDeployment } from "./store.ts";
import { inForce } from "./traffic.ts";

const modes = { on: "maintenance", hold: "hold", off: "on" } as const;
const inForceMs = 10_000;

export function rolloutHandlers(platform: Platform): Handler[] {
  const { pool } = platform;
  const own = (call: Call) => ownDeployment(pool, call.caller, call.params["id"]!);
  const promotionOf = async (call: Call) => {
    const deployment = await own(call);
    const id = call.params["pid"]!;
    const promotion = isUuid(id) ? await loadPromotion(pool, id) : null;
    if (!promotion || promotion.deployment_id !== deployment.id) throw notFound(`Promotion ${id}`);
    return { deployment, promotion };
  };
  const releaseOf = async (call: Call) => {
    const deployment = await own(call);
    const id = call.params["rid"]!;
    const release = isUuid(id) ? await loadRelease(pool, id) : null;
    if (!release || release.deployment_id !== deployment.id) throw notFound(`Release ${id}`);
    return { deployment, release };
  };
  const view = async (id: string) => promotionView((await loadPromotion(pool, id))!);
  const rules = async (tenantId: string) => {
    const row = await queryOne<{ policy: Record<string, unknown> }>(
      pool,
      "select policy from tenants where id = $1",
      [tenantId],
    );
    return rulesOf(row?.policy["retention"], {});
  };

  return [
    handler(r.promotions, async (call) => {
      const row = await own(call as Call);
      const conditions = new Conditions().add("deployment_id = $?", row.id);
      if (call.query.state) conditions.add("state = $?", call.query.state);
      const { rows, next_cursor } = await page<PromotionRow>(pool, "promotions", conditions, call.query);
      return { data: rows.map(promotionView), ...(next_cursor ? { next_cursor } : {}) };
    }),
    handler(r.promotion, async (call) => promotionView((await promotionOf(call as Call)).promotion)),
    handler(r.approve, async (call) => {
      const { deployment, promotion } = await promotionOf(call as unknown as Call);
      return promotionView(
        await approvePromotion(platform, deployment, promotion, call.caller, call.body ?? {}),
      );
    }),
    handler(r.cancel, async (call) => {
      const { deployment, promotion } = await promotionOf(call as Call);
      const ran = promotion.state === "running";
      await cancelPromotion(platform, deployment, promotion, call.caller);
      if (ran)
        await platform.signals.until(`deployment:${deployment.id}`, inForceMs, async () =>
          (await loadDeployment(pool, deployment.id))?.promotion?.state === "running" ? undefined : true,
        );
      return view(promotion.id);
    }),
    handler(r.maintenance, async (call) => {
      const row = await own(call as unknown as Call);
      const { mode, message, hold_sec: holdSec } = call.body;
      await wantDeployment(platform, row.id, {
        traffic: modes[mode],
        traffic_message: message ?? null,
        traffic_until: mode === "hold" ? new Date(Date.now() + holdSec * 1000) : null,
      });
      const wanted = mode === "on" ? "page" : mode === "hold" ? "hold" : null;
      await platform.signals.until("routes", inForceMs, async () => {
        const [route] = await query<{ type: string; version: string }>(
          pool,
          "select target->>'type' as type, version from routes where deployment_id = $1 and kind = 'deployment'",
          [row.id],
        );
        const isThere =
          route === undefined ||
          (wanted ? route.type === wanted : route.type !== "page" && route.type !== "hold");
        if (!isThere) return undefined;
        if (route) await inForce(platform, Number(route.version), call.signal);
        return true;
      });
      await record(platform, eventOf(row, "deployment.maintenance", { mode, message: message ?? null }));
      return deploymentView(platform, (await loadDeployment(pool, row.id))!);
    }),
    handler(r.pin, async (call) => {
      const { deployment, release } = await releaseOf(call as unknown as Call);
      // Not one that a collection took at this very moment.
      const pinned = await pool.query(
        "update releases set pinned_at = now(), pin_reason = $2 where id = $1 and state = 'ready'",
        [release.id, call.body?.reason ?? null],
      );
      if (pinned.rowCount === 0)
        throw new PlatformError(
          "RELEASE_NOT_READY",
          `Release ${release.id} is ${release.state}; there is nothing to keep.`,
        );
      return releaseView((await loadRelease(pool, release.id))!, deployment);
    }),
    handler(r.unpin, async (call) => {
      const { deployment, release } = await releaseOf(call as Call);
      await pool.query("update releases set pinned_at = null, pin_reason = null where id = $1", [release.id]);
      return releaseView((await loadRelease(pool, release.id))!, deployment);
    }),
    handler(r.retention, async (call) => rules(call.caller.tenantId)),
    handler(r.setRetention, async (call) => {
      const next = RetentionRules.parse({ ...(await rules(call.caller.tenantId)), ...call.body });
      await pool.query(
        "update tenants set policy = policy || jsonb_build_object('retention', $2::jsonb) where id = $1",
        [call.caller.tenantId, JSON.stringify(next)],
      );
      return next;
    }),
  ];
}
