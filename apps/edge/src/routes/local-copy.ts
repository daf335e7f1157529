import { createHmac, timingSafeEqual } from "node:crypto";
import { mkdir, open, readFile, rename } from "node:fs/promises";
import { join } from "node:path";
import { Brand, Route, RouteUpdate } from "@platform/edge-api";
import { z } from "zod";
import { RouteTable, type TableContent } from "./table.ts";

/** Shape of what is written; another one is read with care and replaced at the next change. */
const FORMAT = 2;
/** Then the changes are joined into one table again. */
const MAX_LOG_BYTES = 8 * 1024 * 1024;
/** A copy that no control plane confirmed for this long is somebody's backup, not a state to serve. */
const MAX_AGE_MS = 72 * 3_600_000;
const CONFIRM_EVERY_MS = 3_600_000;

const Signed = z.object({ mac: z.string().regex(/^[0-9a-f]{64}$/), payload: z.string() });
const Content = z.object({
  format: z.int().optional(),
  version: z.int(),
  brands: z.array(Brand),
  routes: z.array(Route),
  witnesses: z.array(z.string()).default([]),
});
const Change = z.object({ after: z.int(), update: RouteUpdate });
const Seal = z.object({ version: z.int(), confirmedAt: z.number() });

/** The copy on disk is not what this edge wrote last: it is not served, and a full update replaces it. */
export class LocalCopyRefused extends Error {
  constructor(path: string, reason: string, options?: ErrorOptions) {
    super(`The local route copy ${path} is refused: ${reason}. It is replaced by the next update.`, options);
    this.name = "LocalCopyRefused";
  }
}

/**
 * The routes on disk, with which an edge serves while the control plane is away: a table, the changes
 * since then, and a seal that names the newest version. All are signed with HMAC-SHA256 under the edge's
 * token: whoever can write the folder but lacks the token cannot point a host name elsewhere, nor bring
 * back an older table without the seal that was made with it, nor use one that nobody confirmed for days.
 */
export class LocalCopy {
  readonly #folder: string;
  readonly #secret: string;
  readonly #nowMs: () => number;
  #logBytes = 0;
  #confirmedAt = 0;
  /** What is on disk may not be continued: the next change writes the whole table. */
  #mustRewrite = true;

  /** @param folder existing or creatable data folder of the edge */
  constructor(folder: string, secret: string, nowMs: () => number = Date.now) {
    this.#folder = folder;
    this.#secret = secret;
    this.#nowMs = nowMs;
  }

  /**
   * @returns null if there is no copy yet
   * @throws LocalCopyRefused if it was tampered with, is older than its seal, or too old
   */
  async read(): Promise<TableContent | null> {
    const table = await this.#text("routes.json");
    if (table === null) return null;
    const content = this.#table(this.#open("routes.json", table));
    const log = (await this.#text("routes.log")) ?? "";
    const replayed = new RouteTable();
    replayed.apply({ ...content, full: true, removed: [] });
    for (const { after, update } of this.#changes(log)) {
      if (update.version <= replayed.version) continue;
      if (after !== replayed.version) throw this.#refused("routes.log", "a change is missing");
      replayed.apply(update);
    }
    await this.#assertNewest(replayed.version, content.format === undefined);
    this.#logBytes = log.length;
    this.#mustRewrite = content.format !== FORMAT || (log !== "" && !log.endsWith("\n"));
    return replayed.content();
  }

  /** Durable when it resolves: the whole table. */
  async write(content: TableContent): Promise<void> {
    this.#mustRewrite = true;
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    await this.#replace("routes.json", this.#sign(JSON.stringify({ format: FORMAT, ...content })));
    // A crash before this leaves changes that the table has already; they are passed over.
    await this.#replace("routes.log", "");
    this.#logBytes = 0;
    await this.#seal(content.version);
    this.#mustRewrite = false;
  }

  /**
   * Durable when it resolves: one change. Its cost follows the change and not the table.
   *
   * @param content makes the whole table, for when that has to be written instead
   */
  async append(after: number, update: RouteUpdate, content: () => TableContent): Promise<void> {
    const line = `${this.#sign(JSON.stringify({ after, update }))}\n`;
    if (update.full || this.#mustRewrite || this.#logBytes + line.length > MAX_LOG_BYTES)
      return this.write(content());
    this.#mustRewrite = true;
    const file = await open(join(this.#folder, "routes.log"), "a", 0o600);
    try {
      await file.writeFile(line);
      await file.datasync();
    } finally {
      await file.close();
    }
    this.#logBytes += line.length;
    await this.#seal(update.version);
    this.#mustRewrite = false;
  }

  /** The control plane said that this version is the newest; noted on disk from time to time. */
  async confirm(content: () => TableContent): Promise<void> {
    if (this.#nowMs() - this.#confirmedAt < CONFIRM_EVERY_MS) return;
    const now = content();
    if (this.#mustRewrite) await this.write(now);
    else await this.#seal(now.version);
  }

  async #seal(version: number): Promise<void> {
    const confirmedAt = this.#nowMs();
    await this.#replace("routes.seal", this.#sign(JSON.stringify({ version, confirmedAt })));
    this.#confirmedAt = confirmedAt;
  }

  async #assertNewest(version: number, isFormer: boolean): Promise<void> {
    const text = await this.#text("routes.seal");
    if (text === null) {
      // Copies of the first format had none.
      if (isFormer) return;
      throw this.#refused("routes.seal", "it is missing");
    }
    const seal = Seal.parse(JSON.parse(this.#open("routes.seal", text)));
    if (version < seal.version)
      throw this.#refused("routes.json", `it is version ${version}, older than ${seal.version}`);
    if (this.#nowMs() - seal.confirmedAt > MAX_AGE_MS)
      throw this.#refused("routes.seal", "no control plane confirmed it for three days");
  }

  #table(payload: string) {
    const content: unknown = JSON.parse(payload);
    // Our own signature over our own format vouches for the shape; checking 100,000 routes takes a second.
    if ((content as { format?: number }).format === FORMAT) return content as z.output<typeof Content>;
    return this.#parse("routes.json", () => Content.parse(content));
  }

  /** Without the last one if a crash cut it short; the seal tells whether it counted already. */
  #changes(text: string): z.output<typeof Change>[] {
    const lines = text.split("\n");
    lines.pop();
    return lines.map((line) => {
      const payload = this.#open("routes.log", line);
      return this.#parse("routes.log", () => Change.parse(JSON.parse(payload)));
    });
  }

  #open(name: string, text: string): string {
    const { mac, payload } = this.#parse(name, () => Signed.parse(JSON.parse(text)));
    if (!timingSafeEqual(Buffer.from(this.#mac(payload), "hex"), Buffer.from(mac, "hex")))
      throw this.#refused(name, "its signature does not match");
    return payload;
  }

  #parse<T>(name: string, parse: () => T): T {
    try {
      return parse();
    } catch (cause) {
      throw new LocalCopyRefused(join(this.#folder, name), "it is not a signed route table", { cause });
    }
  }

  #refused(name: string, reason: string): LocalCopyRefused {
    return new LocalCopyRefused(join(this.#folder, name), reason);
  }

  async #text(name: string): Promise<string | null> {
    try {
      return await readFile(join(this.#folder, name), "utf8");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
      throw error;
    }
  }

  /** Written beside, synced, renamed, folder synced. */
  async #replace(name: string, text: string): Promise<void> {
    const path = join(this.#folder, name);
    const temporary = `${path}.${process.pid}.tmp`;
    const file = await open(temporary, "w", 0o600);
    try {
      await file.writeFile(text);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
    const folder = await open(this.#folder, "r");
    try {
      await folder.sync();
    } finally {
      await folder.close();
    }
  }

  #sign(payload: string): string {
    return JSON.stringify({ mac: this.#mac(payload), payload });
  }

  #mac(payload: string): string {
    return createHmac("sha256", this.#secret).update(payload).digest("hex");
  }
}
