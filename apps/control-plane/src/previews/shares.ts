import { createHash, randomBytes } from "node:crypto";
import { PlatformError, notFound, previewRoutes as r } from "@platform/contract";
import { query, queryOne, transaction, type Queryable } from "@platform/postgres";
import { acknowledged, lockRoutes, pointPreviews } from "../edges/index.ts";
import { handler, type Call, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { ownSandbox, type SandboxRow } from "../sandboxes/index.ts";
import { previewHostname, publicUrl, tenantById } from "../tenants/index.ts";

interface ShareRow {
  readonly id: string;
  readonly sandbox_id: string;
  readonly preview_id: string | null;
  readonly scope: string;
  readonly token_prefix: string;
  readonly expires_at: Date;
}

/** Links of one sandbox that are good at the same time. */
const mostShares = 100;
const ackMs = 5_000;

interface Target {
  readonly sandbox: SandboxRow;
  /** null: all previews of the sandbox. */
  readonly previewId: string | null;
  readonly url: string;
}

const viewOf = (row: ShareRow, url: string) => ({
  share_id: row.id,
  share_url: url,
  preview_id: row.preview_id,
  token_prefix: row.token_prefix,
  scope: row.scope,
  expires_at: row.expires_at.toISOString(),
});

/** Brings shares to the edges; answers once each that lives has them. */
async function bring(platform: Platform, sandbox: SandboxRow, signal?: AbortSignal): Promise<void> {
  await pointPreviews(platform, sandbox, sandbox.state === "paused" ? "wake" : "boxes");
  const newest = await queryOne<{ version: string | null }>(
    platform.pool,
    "select max(version) as version from routes where sandbox_id = $1",
    [sandbox.id],
  );
  await acknowledged(platform, Number(newest?.version ?? 0), ackMs, signal);
}

async function give(platform: Platform, call: Call, target: Target, kind: string, seconds: number) {
  const token = randomBytes(24).toString("base64url");
  const row = await transaction(platform.pool, async (db) => {
    await lockRoutes(db);
    await assertRoom(db, target.sandbox.id);
    return queryOne<ShareRow>(
      db,
      `insert into preview_shares (id, tenant_id, sandbox_id, preview_id, kind, scope, token_sha256, token_prefix, expires_at)
       values ($1, $2, $3, $4, $5, 'read', $6, $7, now() + interval '1 second' * $8::integer)
       on conflict (id) do update set token_sha256 = excluded.token_sha256, token_prefix = excluded.token_prefix returning *`,
      [
        call.idFor("share"),
        target.sandbox.tenant_id,
        target.sandbox.id,
        target.previewId,
        kind,
        createHash("sha256").update(token).digest("hex"),
        token.slice(0, 6),
        seconds,
      ],
    );
  });
  await bring(platform, target.sandbox, call.signal);
  return { row: row!, token, url: `${target.url}/?ms=${token}` };
}

async function assertRoom(db: Queryable, sandboxId: string): Promise<void> {
  await db.query("delete from preview_shares where expires_at < now()");
  const { n } = (await queryOne<{ n: string }>(
    db,
    "select count(*) as n from preview_shares where sandbox_id = $1",
    [sandboxId],
  ))!;
  if (Number(n) >= mostShares)
    throw new PlatformError(
      "QUOTA_EXCEEDED",
      `The sandbox has ${mostShares} links already. End some with DELETE …/shares/:id, or wait until they expire.`,
    );
}

/** Links and tokens that open private previews for a while; a public one needs none and takes any. */
export function shareHandlers(platform: Platform): Handler[] {
  const { pool } = platform;
  const ofPreview = async (call: Call): Promise<Target> => {
    const sandbox = await ownSandbox(pool, call.caller, call.params["id"]!);
    const preview = await queryOne<{ id: string; url: string }>(
      pool,
      "select id, url from previews where sandbox_id = $1 and id::text = $2",
      [sandbox.id, call.params["pid"]],
    );
    if (!preview) throw notFound(`Preview ${call.params["pid"]}`);
    return { sandbox, previewId: preview.id, url: preview.url };
  };
  const ofSandbox = async (call: Call): Promise<Target> => {
    const sandbox = await ownSandbox(pool, call.caller, call.params["id"]!);
    const tenant = (await tenantById(pool, sandbox.tenant_id))!;
    const first = await queryOne<{ url: string }>(
      pool,
      "select url from previews where sandbox_id = $1 order by is_primary desc, created_at limit 1",
      [sandbox.id],
    );
    // Before the first preview the link leads where it will be.
    const url = first?.url ?? publicUrl(platform.settings, previewHostname(tenant, sandbox.slug, null));
    return { sandbox, previewId: null, url };
  };
  const end = async (sandbox: SandboxRow, where: string, value: string | undefined) => {
    const { rowCount } = await pool.query(`delete from preview_shares where sandbox_id = $1 and ${where}`, [
      sandbox.id,
      value,
    ]);
    if (rowCount) await bring(platform, sandbox);
    return rowCount ?? 0;
  };
  return [
    handler(r.share, async (call) => {
      const target = await ofPreview(call as unknown as Call);
      const made = await give(platform, call as unknown as Call, target, "preview", call.body.ttl_seconds);
      return { ...viewOf(made.row, made.url), share_token: made.token };
    }),
    handler(r.unshare, async (call) => {
      const target = await ofPreview(call as Call);
      await end(target.sandbox, "preview_id::text = $2", target.previewId!);
      return { id: target.previewId, deleted: true };
    }),
    handler(r.token, async (call) => {
      const target = await ofSandbox(call as unknown as Call);
      const made = await give(platform, call as unknown as Call, target, "token", call.body.expires_in);
      const { scope, expires_at } = viewOf(made.row, made.url);
      return { token: made.token, url: made.url, expires_at, scope };
    }),
    handler(r.shareList, async (call) => {
      const { sandbox, url } = await ofSandbox(call as Call);
      const rows = await query<ShareRow & { url: string | null }>(
        pool,
        `select s.*, p.url from preview_shares s left join previews p on p.id = s.preview_id
         where s.sandbox_id = $1 and s.expires_at > now() order by s.created_at`,
        [sandbox.id],
      );
      return rows.map((row) => viewOf(row, row.url ?? url));
    }),
    handler(r.shareCreate, async (call) => {
      const target = await ofSandbox(call as unknown as Call);
      const made = await give(platform, call as unknown as Call, target, "share", call.body.expires_in);
      return viewOf(made.row, made.url);
    }),
    handler(r.shareRemove, async (call) => {
      const sandbox = await ownSandbox(pool, call.caller, call.params["id"]!);
      if ((await end(sandbox, "id::text = $2", call.params["sid"])) === 0)
        throw notFound(`Share ${call.params["sid"]}`);
      return { id: call.params["sid"], deleted: true };
    }),
  ];
}
