import { open } from "node:fs/promises";
import { constants } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import type { Readable } from "node:stream";

const maxFileBytes = 256 * 1024;
/** A box that writes faster waits: what it says must cost neither the machine's disk nor its processors. */
const maxBytesPerSecond = 1024 * 1024;

/**
 * Writes what a stream says to a file that never grows beyond 256 KiB: when it is full it begins anew.
 * Resolves when the stream ended.
 */
export async function keepLog(stream: Readable, path: string): Promise<void> {
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | constants.O_NOFOLLOW;
  const file = await open(path, flags, 0o600);
  let size = 0;
  try {
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      const piece = chunk.subarray(-maxFileBytes);
      if (size + piece.length > maxFileBytes) {
        await file.truncate(0);
        size = 0;
      }
      await file.write(piece, 0, piece.length, size);
      size += piece.length;
      const pauseMs = (chunk.length / maxBytesPerSecond) * 1000;
      if (pauseMs > 5) await delay(pauseMs);
    }
  } catch {
    // The machine's disk is full, or the stream broke: the box runs on without its log.
    stream.resume();
  } finally {
    await file.close();
  }
}
