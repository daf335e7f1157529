import { Readable } from "node:stream";
import { PlatformError, largestUploadChunk, notFound, uploadRoutes as r } from "@platform/contract";
import { HostError } from "@platform/host-api";
import { queryOne } from "@platform/postgres";
import { ownDeployment } from "../store.ts";
import { handler, type Call, type Handler } from "../../http/index.ts";
import type { Platform } from "../../platform.ts";
import {
  createUpload,
  incomplete,
  loadUpload,
  missingChunks,
  sha256Of,
  touch,
  uploadHours,
  uploadView,
  type UploadRow,
} from "./store.ts";

/** @throws PlatformError PAYLOAD_TOO_LARGE */
async function readBody(call: Call): Promise<Buffer> {
  const { body } = call.request;
  if (!(body instanceof Readable)) return Buffer.alloc(0);
  const parts: Buffer[] = [];
  let sizeBytes = 0;
  for await (const part of body.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    sizeBytes += part.length;
    if (sizeBytes > largestUploadChunk)
      throw new PlatformError(
        "PAYLOAD_TOO_LARGE",
        `A chunk has at most ${largestUploadChunk} bytes. Cut the file into smaller ones.`,
      );
    parts.push(part);
  }
  return Buffer.concat(parts);
}

/** One chunk, once: what the tenant sent before is neither read nor stored again. */
async function putChunk(platform: Platform, call: Call, row: UploadRow, index: number): Promise<boolean> {
  const chunk = row.chunks[index];
  if (!chunk) throw notFound(`Chunk ${call.params["n"]} of upload ${row.id}`);
  const known = await queryOne(
    platform.pool,
    "select 1 from upload_chunks where tenant_id = $1 and sha256 = $2",
    [row.tenant_id, chunk.sha256],
  );
  if (known || row.state === "complete") return false;
  const content = await readBody(call);
  const found = sha256Of(content);
  if (found !== chunk.sha256)
    throw new PlatformError(
      "DIGEST_MISMATCH",
      `Chunk ${index} has the digest ${found}, not ${chunk.sha256}. Send it again; if it stays so, the file changed.`,
      {
        details: { chunk: index, found, wanted: chunk.sha256 },
        errors: { sha256: ["is not the body's digest"] },
      },
    );
  await platform.host.putChunk(`sha256:${chunk.sha256}`, content, call.signal);
  await platform.pool.query(
    "insert into upload_chunks (tenant_id, sha256, size_bytes) values ($1, $2, $3) on conflict (tenant_id, sha256) do update set last_used_at = now()",
    [row.tenant_id, chunk.sha256, content.length],
  );
  await platform.pool.query(
    "update uploads set expires_at = now() + make_interval(hours => $2) where id = $1",
    [row.id, uploadHours],
  );
  return true;
}

/** @throws PlatformError UPLOAD_INCOMPLETE, DIGEST_MISMATCH */
async function complete(platform: Platform, row: UploadRow, signal: AbortSignal): Promise<UploadRow> {
  if (row.state === "complete") return row;
  const missing = await missingChunks(platform.pool, row);
  if (missing.length > 0) throw incomplete(missing);
  await touch(platform.pool, row);
  const digests = row.chunks.map((chunk) => `sha256:${chunk.sha256}`);
  try {
    await platform.host.assembleChunks(digests, `sha256:${row.sha256}`, signal);
  } catch (error) {
    if (!(error instanceof HostError)) throw error;
    if (error.details["reason"] === "CHUNKS_MISSING") {
      const lost = (error.details["missing"] as string[]).map((digest) => digest.slice("sha256:".length));
      await platform.pool.query(
        "delete from upload_chunks where tenant_id = $1 and sha256 = any($2::text[])",
        [row.tenant_id, lost],
      );
      throw incomplete(await missingChunks(platform.pool, row));
    }
    if (error.details["reason"] !== "DIGEST_MISMATCH") throw error;
    throw new PlatformError(
      "DIGEST_MISMATCH",
      "The chunks together do not have the digest that was stated for the whole. Cut the file again and begin a new upload.",
      {
        details: { wanted: row.sha256, pointer: "/sha256" },
        errors: { sha256: ["is not the digest of the chunks"] },
        cause: error,
      },
    );
  }
  await platform.pool.query("update uploads set state = 'complete' where id = $1", [row.id]);
  return { ...row, state: "complete" };
}

export function uploadHandlers(platform: Platform): Handler[] {
  const { pool } = platform;
  const own = (call: Call) => ownDeployment(pool, call.caller, call.params["id"]!);
  const upload = async (call: Call) => loadUpload(pool, (await own(call)).id, call.params["uid"]!);
  return [
    handler(r.create, async (call) => {
      const row = await createUpload(pool, await own(call as Call), call.idFor("upload"), call.body);
      await touch(pool, row);
      return uploadView(pool, row);
    }),
    handler(r.get, async (call) => uploadView(pool, await upload(call as Call))),
    handler(r.putChunk, async (call) => {
      const row = await upload(call as Call);
      const index = /^\d{1,6}$/.test(call.params["n"]!) ? Number(call.params["n"]) : -1;
      return { chunk: index, stored: await putChunk(platform, call as Call, row, index) };
    }),
    handler(r.complete, async (call) =>
      uploadView(pool, await complete(platform, await upload(call as Call), call.signal)),
    ),
  ];
}
