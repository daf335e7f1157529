import { chmodSync, existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { createLog } from "@platform/daemon";
import { readFrames, type Frame } from "@platform/host-api";
import type { EngineSpec } from "../engine.ts";
import { unmountBelow } from "../../drivers/linux/mounts.ts";
import { Manifest } from "./manifest.ts";
import type { DedicatedEngine, EngineOptions } from "./engine.ts";

export const runsAsRoot = process.getuid?.() === 0;
export const never = new AbortController().signal;

/** An engine on a folder of its own. What it made is gone when the test ends, also after a failure. */
export function startTestEngine(t: TestContext, make: (options: EngineOptions) => DedicatedEngine) {
  const dataDir = mkdtempSync(join(tmpdir(), "engine-"));
  chmodSync(dataDir, 0o711);
  const opened = new Set<DedicatedEngine>();
  const open = () => {
    const engine = make({ dataDir, log: createLog("test", "silent"), runsAsRoot, superviseEveryMs: 50 });
    opened.add(engine);
    return engine;
  };
  t.after(async () => {
    // One engine at a time looks after a folder.
    for (const engine of opened) await engine.close();
    const sweeper = open();
    for (const { key } of await sweeper.list()) await sweeper.destroy(key);
    await sweeper.close();
    if (runsAsRoot) await unmountBelow(dataDir); // Nothing, unless a test failed half-way.
    rmSync(dataDir, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
  });
  return { dataDir, open, engine: open() };
}

/** Whether a database lies on a disk of limited size here. */
export const hasDisk = (dataDir: string, key: string) =>
  existsSync(join(dataDir, "databases", key, "disk.img"));

export async function framesOf(engine: DedicatedEngine, key: string): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of engine.backup(key, never)) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** Restores bytes as if they came from far away, in pieces. */
export async function restoreFrom(engine: DedicatedEngine, bytes: Buffer, key: string, spec: EngineSpec) {
  const pieces = async function* () {
    for (let at = 0; at < bytes.length; at += 100_000) yield bytes.subarray(at, at + 100_000);
  };
  const frames = readFrames(pieces());
  const first = await frames.next();
  const manifest = Manifest.parse(JSON.parse((first.value as Frame).content.toString("utf8")));
  return engine.restore(key, spec, manifest, frames, null, never);
}
