import type { RouteTarget } from "@platform/edge-api";
import { queryOne } from "@platform/postgres";
import type { Platform } from "../platform.ts";
import type { DeploymentRow } from "./store.ts";
import { isOpen, pointAt } from "./traffic.ts";

type Page = Extract<RouteTarget, { type: "page" }>["page"];

/** By the newest build: what there is to say of a deployment that nothing serves yet. */
function pageFor(row: DeploymentRow, build: string): Page | null {
  if (build === "queued" || build === "building") return "starting";
  if (build === "failed") return "build_failed";
  if (build !== "succeeded") return null;
  return row.state === "failed" ? "start_failed" : "starting";
}

/** Visitors of a deployment that never served see how far it is, under its own name, instead of "not found". */
export async function showProgress(platform: Platform, row: DeploymentRow): Promise<void> {
  if (!isOpen(row)) return;
  const build = await queryOne<{ state: string }>(
    platform.pool,
    "select state from builds where deployment_id = $1 order by created_at desc limit 1",
    [row.id],
  );
  const page = build && pageFor(row, build.state);
  if (!page) return;
  const known = await queryOne(
    platform.pool,
    "select 1 from routes where deployment_id = $1 and kind = 'deployment' and target->>'type' = 'page' and target->>'page' = $2",
    [row.id, page],
  );
  if (!known) await pointAt(platform, row, { type: "page", page, detail: null }, null);
}
