import { createHash } from "node:crypto";
import {
  PlatformError,
  largestUploadChunk,
  notFound,
  type CreateUpload,
  type Upload,
} from "@platform/contract";
import { query, queryOne, type Queryable } from "@platform/postgres";
import type { z } from "zod";
import { isUuid } from "../../tenants/index.ts";

/** An unfinished upload is given up this long after its last chunk. */
export const uploadHours = 24;

export interface UploadRow {
  readonly id: string;
  readonly tenant_id: string;
  readonly deployment_id: string;
  readonly state: "open" | "complete";
  readonly size_bytes: string;
  readonly sha256: string;
  readonly chunks: readonly { readonly sha256: string; readonly size_bytes: number }[];
  readonly expires_at: Date;
}

/** @throws PlatformError VALIDATION_FAILED when the chunks are not as long as the whole */
export async function createUpload(
  db: Queryable,
  owner: { readonly id: string; readonly tenant_id: string },
  id: string,
  wanted: z.output<typeof CreateUpload>,
): Promise<UploadRow> {
  const sum = wanted.chunks.reduce((total, chunk) => total + chunk.size_bytes, 0);
  if (sum !== wanted.size_bytes)
    throw new PlatformError(
      "VALIDATION_FAILED",
      `The chunks have ${sum} bytes together, size_bytes says ${wanted.size_bytes}. Cut the file again.`,
      {
        errors: { size_bytes: [`is not the sum of the chunks, ${sum}`] },
        details: { pointer: "/size_bytes" },
      },
    );
  await db.query(
    `insert into uploads (id, tenant_id, deployment_id, size_bytes, sha256, chunks, expires_at)
     values ($1, $2, $3, $4, $5, $6, now() + make_interval(hours => $7)) on conflict (id) do nothing`,
    [
      id,
      owner.tenant_id,
      owner.id,
      wanted.size_bytes,
      wanted.sha256,
      JSON.stringify(wanted.chunks),
      uploadHours,
    ],
  );
  return (await queryOne<UploadRow>(db, "select * from uploads where id = $1", [id]))!;
}

/** @throws PlatformError NOT_FOUND */
export async function loadUpload(db: Queryable, deploymentId: string, id: string): Promise<UploadRow> {
  const row = isUuid(id)
    ? await queryOne<UploadRow>(db, "select * from uploads where id = $1 and deployment_id = $2", [
        id,
        deploymentId,
      ])
    : null;
  if (!row) throw notFound(`Upload ${id}`);
  return row;
}

/**
 * Numbers of the chunks that this tenant has not sent, each different one once. What another tenant sent
 * does not count: its presence would tell of its content.
 */
export async function missingChunks(db: Queryable, row: UploadRow): Promise<number[]> {
  if (row.state === "complete") return [];
  const known = await query<{ sha256: string }>(
    db,
    "select sha256 from upload_chunks where tenant_id = $1 and sha256 = any($2::text[])",
    [row.tenant_id, row.chunks.map((chunk) => chunk.sha256)],
  );
  const there = new Set(known.map((chunk) => chunk.sha256));
  const missing: number[] = [];
  for (const [index, { sha256 }] of row.chunks.entries()) {
    if (there.has(sha256)) continue;
    there.add(sha256);
    missing.push(index);
  }
  return missing;
}

/** What an upload needs, so that a cleaning that runs meanwhile leaves it. */
export async function touch(db: Queryable, row: UploadRow): Promise<void> {
  await db.query(
    "update upload_chunks set last_used_at = now() where tenant_id = $1 and sha256 = any($2::text[])",
    [row.tenant_id, row.chunks.map((chunk) => chunk.sha256)],
  );
}

export async function uploadView(db: Queryable, row: UploadRow): Promise<Upload> {
  return {
    id: row.id,
    deployment_id: row.deployment_id,
    state: row.state,
    size_bytes: Number(row.size_bytes),
    sha256: row.sha256,
    chunk_size: largestUploadChunk,
    missing: await missingChunks(db, row),
    expires_at: row.expires_at.toISOString(),
  };
}

/** The frozen files that a publish takes. @throws PlatformError NOT_FOUND, UPLOAD_INCOMPLETE */
export async function uploadedSource(db: Queryable, deploymentId: string, id: string): Promise<string> {
  const row = await loadUpload(db, deploymentId, id);
  if (row.state !== "complete") throw incomplete(await missingChunks(db, row));
  return `sha256:${row.sha256}`;
}

export const incomplete = (missing: readonly number[]) =>
  new PlatformError(
    "UPLOAD_INCOMPLETE",
    `${missing.length} chunks are missing. Send them (details.missing), complete the upload, and try again.`,
    { details: { missing } },
  );

export const sha256Of = (bytes: Buffer) => createHash("sha256").update(bytes).digest("hex");
