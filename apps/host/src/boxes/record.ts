import { createHash } from "node:crypto";
import { mkdir, open, readdir, readFile, rename } from "node:fs/promises";
import { join } from "node:path";
import {
  bootPaths,
  Box,
  BoxFailure,
  BoxKey,
  BoxSpec,
  Digest,
  Isolation,
  type ResolvedBoxSpec,
} from "@platform/host-api";
import { z } from "zod";
import { boxLayouts, foldersAt, type BoxLayout } from "../drivers/box-folders.ts";
import type { BoxFolders } from "../drivers/driver.ts";

/** What the host knows of a box; one `state.json` a box. Holds secrets: mode 0600. */
export const BoxRecord = z.object({
  key: BoxKey,
  /**
   * Under which the machine knows the box: folder, control groups, processes. The key, but for a box
   * that was booted before anybody asked for it.
   */
  place: BoxKey.optional(),
  spec: BoxSpec,
  specHash: z.string(),
  /** `starting`, `waiting` (in the pool) and `deleting` are removed after a crash, the others kept. */
  phase: z.enum(["starting", "waiting", "running", "failed", "deleting"]),
  isPaused: z.boolean(),
  driver: z.string(),
  driverState: z.record(z.string(), z.unknown()).nullable(),
  isolation: Isolation.nullable(),
  failure: BoxFailure.nullable(),
  createdAt: z.string(),
  bootMs: z.number().nullable(),
  bootPath: z.enum(bootPaths).nullable().default(null),
  owner: z.object({ uid: z.int(), gid: z.int() }).nullable(),
  layout: z.enum(boxLayouts).default("flat"),
  /** Digest of its root; `null`: the machine's own system. */
  image: Digest.nullable().default(null),
});
export type BoxRecord = z.output<typeof BoxRecord>;

export const placeOf = (record: Pick<BoxRecord, "key" | "place">): string => record.place ?? record.key;

export function toBox(record: BoxRecord): Box {
  const { key, spec, isolation, failure, createdAt, bootMs, bootPath, specHash, image } = record;
  return {
    key,
    purpose: spec.purpose,
    state: stateOf(record),
    isolation,
    failure,
    createdAt,
    bootMs,
    bootPath,
    specHash,
    image,
    notices: [],
  };
}

function stateOf({ phase, isPaused }: BoxRecord): Box["state"] {
  if (phase === "running" && isPaused) return "paused";
  if (phase === "deleting") return "failed";
  return phase === "waiting" ? "starting" : phase;
}

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== "object") return value;
  const entries = Object.entries(value).map(([name, inner]) => [name, sorted(inner)] as const);
  return Object.fromEntries(entries.sort(([a], [b]) => (a < b ? -1 : 1)));
}

/**
 * Covers what only a new box can change. What PATCH changes (environment, egress, links) is left
 * out, so that repeating the first request after a PATCH is no conflict; of a service's environment
 * only the names count, as values may be secrets.
 */
export function hashSpec(spec: ResolvedBoxSpec): string {
  const { env: _env, egress: _egress, links: _links, ...fixed } = spec;
  const services = fixed.services.map((service) => ({ ...service, env: Object.keys(service.env).sort() }));
  const text = JSON.stringify(sorted({ ...fixed, services }));
  return createHash("sha256").update(text).digest("hex");
}

/** The records of one host, one folder a box. */
export class RecordStore {
  readonly #root: string;
  constructor(root: string) {
    this.#root = root;
  }

  folders(place: string, owner: BoxFolders["owner"], layout: BoxLayout): BoxFolders {
    return foldersAt(join(this.#root, place), owner, layout);
  }

  /** On disk before it returns: a step that it announces may follow. */
  async save(record: BoxRecord): Promise<void> {
    const root = join(this.#root, placeOf(record));
    await mkdir(root, { recursive: true, mode: 0o711 });
    const path = join(root, "state.json");
    const file = await open(`${path}.new`, "w", 0o600);
    try {
      await file.writeFile(JSON.stringify(record));
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(`${path}.new`, path);
    const folder = await open(root, "r");
    try {
      await folder.sync();
    } finally {
      await folder.close();
    }
  }

  /** Every folder there is; `record` is `null` for one whose box was never announced. */
  async load(): Promise<{ place: string; record: BoxRecord | null }[]> {
    await mkdir(this.#root, { recursive: true, mode: 0o711 });
    const places = await readdir(this.#root);
    return Promise.all(places.map(async (place) => ({ place, record: await this.#read(place) })));
  }

  async #read(place: string): Promise<BoxRecord | null> {
    try {
      return BoxRecord.parse(JSON.parse(await readFile(join(this.#root, place, "state.json"), "utf8")));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
      throw new Error(`The record of box ${place} cannot be read. Restore or remove its folder.`, {
        cause: error,
      });
    }
  }
}
