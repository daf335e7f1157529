import { createHmac, timingSafeEqual } from "node:crypto";
import { mkdir, open, readFile, rename } from "node:fs/promises";
import { dirname, join } from "node:path";
import { Brand, Route } from "@platform/edge-api";
import { z } from "zod";
import type { TableContent } from "./table.ts";

const Signed = z.object({ mac: z.string().regex(/^[0-9a-f]{64}$/), payload: z.string() });
const Content = z.object({ version: z.int(), brands: z.array(Brand), routes: z.array(Route) });

/** The copy on disk is not what this edge wrote: it is not served, and a full update replaces it. */
export class LocalCopyRefused extends Error {
  constructor(path: string, reason: string, options?: ErrorOptions) {
    super(`The local route copy ${path} is refused: ${reason}. It is replaced by the next update.`, options);
    this.name = "LocalCopyRefused";
  }
}

/**
 * The routes on disk, with which an edge serves while the control plane is away. Signed with
 * HMAC-SHA256 under the edge's token: whoever can write the folder but lacks the token cannot
 * point a host name elsewhere.
 */
export class LocalCopy {
  readonly #path: string;
  readonly #secret: string;

  /** @param folder existing or creatable data folder of the edge */
  constructor(folder: string, secret: string) {
    this.#path = join(folder, "routes.json");
    this.#secret = secret;
  }

  /**
   * @returns null if there is no copy yet
   * @throws LocalCopyRefused if its signature or shape is wrong
   */
  async read(): Promise<TableContent | null> {
    let text: string;
    try {
      text = await readFile(this.#path, "utf8");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
      throw error;
    }
    try {
      const { mac, payload } = Signed.parse(JSON.parse(text));
      const expected = Buffer.from(this.#sign(payload), "hex");
      if (!timingSafeEqual(expected, Buffer.from(mac, "hex"))) {
        throw new LocalCopyRefused(this.#path, "its signature does not match");
      }
      return Content.parse(JSON.parse(payload));
    } catch (cause) {
      if (cause instanceof LocalCopyRefused) throw cause;
      throw new LocalCopyRefused(this.#path, "it is not a signed route table", { cause });
    }
  }

  /** Durable when it resolves: written beside, synced, renamed, folder synced. */
  async write(content: TableContent): Promise<void> {
    await mkdir(dirname(this.#path), { recursive: true, mode: 0o700 });
    const payload = JSON.stringify(content);
    const temporary = `${this.#path}.${process.pid}.tmp`;
    const file = await open(temporary, "w", 0o600);
    try {
      await file.writeFile(JSON.stringify({ mac: this.#sign(payload), payload }));
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, this.#path);
    const folder = await open(dirname(this.#path), "r");
    try {
      await folder.sync();
    } finally {
      await folder.close();
    }
  }

  #sign(payload: string): string {
    return createHmac("sha256", this.#secret).update(payload).digest("hex");
  }
}
