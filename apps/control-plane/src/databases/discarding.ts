import type { Platform } from "../platform.ts";
import { deleteStoreObject, listStoreObjects } from "../storage/index.ts";

/** Deletes what is stored below a prefix, also what no row knows of. Safe to run again. @param after the last key that stays */
export async function discardObjects(
  platform: Platform,
  bucket: string,
  prefix: string,
  after = "",
): Promise<void> {
  for (let marker = after; ;) {
    const { objects } = await listStoreObjects(platform, bucket, { prefix, marker, limit: 1000 });
    for (const { key } of objects) await deleteStoreObject(platform, bucket, key);
    const last = objects.at(-1);
    if (!last) return;
    marker = last.key;
  }
}
