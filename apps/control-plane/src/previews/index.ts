import { notFound, previewRoutes as r } from "@platform/contract";
import { query, queryOne, transaction } from "@platform/postgres";
import { removeRoutes } from "../edges/index.ts";
import { handler, type Call, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { ownSandbox, type SandboxRow } from "../sandboxes/index.ts";
import { expose, withToken, type PreviewRow } from "./expose.ts";
import { probeThroughEdge } from "./probe.ts";

export { shareHandlers } from "./shares.ts";
export { consoleHandlers, storeConsole, trimConsole } from "./console.ts";
export { forgetPreviews } from "./expose.ts";

const view = (row: PreviewRow) => ({
  id: row.id,
  preview_id: row.id,
  sandbox_id: row.sandbox_id,
  name: row.name,
  port: row.port,
  state: row.probe ? "active" : "pending",
  visibility: row.visibility,
  url: row.url,
  route_status: "active",
  probe: row.probe,
  console: row.console,
  expires_at: row.expires_at?.toISOString() ?? null,
  share_token_prefix: null,
  created_at: row.created_at.toISOString(),
});

function exposeView(preview: PreviewRow, sandbox: SandboxRow) {
  const kind = sandbox.always_on ? "always_on_preview" : "temporary_preview";
  return {
    url: preview.url,
    preview_id: preview.id,
    port: preview.port,
    ready: true,
    class: kind,
    url_class: kind,
    stable_for_embedding: sandbox.always_on,
    recommended_next_action: "publish_when_ready",
    alias_slug: preview.is_primary ? sandbox.slug : null,
    visibility: preview.visibility,
    probe: preview.probe,
  };
}

export function previewHandlers(platform: Platform): Handler[] {
  const { pool } = platform;
  const own = async (call: Call) => {
    const sandbox = await ownSandbox(pool, call.caller, call.params["id"]!);
    const row = await queryOne<PreviewRow>(
      pool,
      "select * from previews where sandbox_id = $1 and id::text = $2",
      [sandbox.id, call.params["pid"]],
    );
    if (!row) throw notFound(`Preview ${call.params["pid"]}`);
    return { sandbox, row };
  };
  return [
    handler(r.expose, async (call) => {
      const body = call.body ?? {};
      const { preview, row } = await expose(platform, call as unknown as Call, {
        port: body.port,
        title: body.title,
        waitMs: body.wait_ms,
        path: body.path,
        console: body.console,
      });
      return exposeView(preview, row);
    }),
    handler(r.list, async (call) => {
      const sandbox = await ownSandbox(pool, call.caller, call.params["id"]!);
      return (
        await query<PreviewRow>(pool, "select * from previews where sandbox_id = $1 order by created_at", [
          sandbox.id,
        ])
      ).map(view);
    }),
    handler(r.create, async (call) => {
      const { port, name, visibility, ttl_seconds, console } = call.body;
      const { preview } = await expose(platform, call as unknown as Call, {
        port,
        title: name,
        visibility,
        ttlSeconds: ttl_seconds,
        console,
      });
      if (!preview.access_sealed) return view(preview);
      const token = platform.seal.open(preview.access_sealed);
      return { ...view(preview), share_token: token, share_url: `${preview.url}/?ms=${token}` };
    }),
    handler(r.get, async (call) => view((await own(call as Call)).row)),
    handler(r.remove, async (call) => {
      const { row } = await own(call as Call);
      await transaction(pool, async (db) => {
        await db.query("delete from previews where id = $1", [row.id]);
        await removeRoutes(db, "hostname = $1", [row.hostname]);
      });
      platform.signals.announce("routes");
      return { id: row.id, deleted: true };
    }),
    handler(r.status, async (call) => {
      const { row, sandbox } = await own(call as Call);
      const now = await probeThroughEdge(
        { url: platform.settings.edgeUrl, publicPort: platform.settings.publicPort },
        row.hostname,
        withToken(platform, row, "/"),
        2_000,
      );
      return {
        process: {
          status: now.edge.ok ? "up" : "down",
          http_status: now.edge.http_status,
          latency_ms: now.edge.latency_ms,
        },
        tls: { status: platform.settings.publicScheme === "https" ? "active" : "not_used" },
        sandbox: { state: sandbox.state },
      };
    }),
  ];
}
