import { PassThrough, pipeline, Readable } from "node:stream";
import { PlatformError } from "@platform/contract";
import { HostError } from "@platform/host-api";
import type { Platform } from "../platform.ts";
import { uploadKey } from "./store.ts";

/**
 * Brings an image, or the files of a step, to the machine and names whose they are. The machine's file comes
 * first: one that no row names cannot be used, and goes by itself.
 *
 * @returns bytes
 * @throws PlatformError DISK_FULL, PAYLOAD_TOO_LARGE
 */
export async function storeUpload(
  platform: Platform,
  tenantId: string,
  id: string,
  source: unknown,
  signal: AbortSignal,
): Promise<number> {
  try {
    // Whoever sends it on destroys the stream at its end, and the request is still needed then.
    const body = new PassThrough({ highWaterMark: 1024 * 1024 });
    pipeline(source instanceof Readable ? source : Readable.from([]), body, () => undefined);
    const { sizeBytes } = await platform.host.putImageUpload(uploadKey(id), body, signal);
    await platform.pool.query(
      "delete from template_image_uploads where created_at < now() - interval '1 day'",
    );
    await platform.pool.query(
      `insert into template_image_uploads (id, tenant_id, size_bytes) values ($1, $2, $3)
       on conflict (id) do update set size_bytes = excluded.size_bytes, created_at = now()`,
      [id, tenantId, sizeBytes],
    );
    return sizeBytes;
  } catch (error) {
    if (!(error instanceof HostError)) throw error;
    if (error.code === "DISK_FULL")
      throw new PlatformError("DISK_FULL", "There is no room for the upload. Ask your operator.", {
        cause: error,
      });
    if (error.status === 413)
      throw new PlatformError("PAYLOAD_TOO_LARGE", "An upload may have 20 GiB. Make it smaller.", {
        cause: error,
      });
    throw error;
  }
}
