// `npm run bench:sandbox -- --parts=cold,pool,files,npm,burst,idle,neighbours --drivers=bubblewrap,gvisor --rounds=10`
// Sandboxes beside the bare tools they are made with, by turns in one run. Writes a part of docs/benchmarks.md.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { loadavg } from "node:os";
import { parseArgs } from "node:util";
import { startOwnPlatform, type OwnPlatform } from "../e2e/full/own-platform.ts";
import { BareTools, runscProgram } from "./bench/sandbox/bare.ts";
import { measureCold, measurePool } from "./bench/sandbox/boot.ts";
import { measureBurst, measureIdle } from "./bench/sandbox/many.ts";
import { measureFiles, measureInstall } from "./bench/sandbox/work.ts";
import { measureNeighbours } from "./bench/sandbox/neighbours.ts";
import { machine, table, writeSection, type Row } from "./bench/timing.ts";

const { values } = parseArgs({
  options: {
    parts: { type: "string", default: "cold,pool,files,npm,burst,idle,neighbours" },
    drivers: { type: "string", default: "bubblewrap,gvisor" },
    rounds: { type: "string", default: "10" },
    mib: { type: "string", default: "1024" },
    burst: { type: "string", default: "100" },
    idle: { type: "string", default: "200" },
    /** No part begins after this many minutes. */
    minutes: { type: "string", default: "25" },
  },
});
const parts = new Set(values.parts.split(","));
const rounds = Number(values.rounds);
const endsAt = Date.now() + Number(values.minutes) * 60_000;
const rows: Row[] = [];
const remarks: string[] = [];
const say = (line: string) => process.stderr.write(`${line}\n`);

async function part(name: string, driver: string, work: () => Promise<Row[] | string>): Promise<void> {
  if (!parts.has(name)) return;
  if (Date.now() > endsAt) {
    remarks.push(`${driver}: ${name} was not measured: the ${values.minutes} minutes were over.`);
    return;
  }
  say(`• ${driver}: ${name}`);
  try {
    const seen = await work();
    if (typeof seen === "string") remarks.push(seen);
    else rows.push(...seen);
  } catch (error) {
    say(`✗ ${driver}: ${name}: ${(error as Error).message}`);
    remarks.push(`${driver}: ${name} failed and has no row.`);
  }
}

async function withPlatform(
  settings: Record<string, string>,
  work: (platform: OwnPlatform) => Promise<void>,
): Promise<void> {
  const platform = await startOwnPlatform(settings);
  try {
    await work(platform);
  } finally {
    await platform.stop();
  }
}

async function measureDriver(driver: string, bare: BareTools): Promise<void> {
  const settings = { HOST_DRIVERS: driver, ...(existsSync(runscProgram) ? { RUNSC_BIN: runscProgram } : {}) };
  await withPlatform({ ...settings, HOST_POOL_MAX: "0" }, async (platform) => {
    await part("cold", driver, () => measureCold(platform, driver, bare, rounds));
    await part("files", driver, () => measureFiles(platform, driver, bare, Number(values.mib)));
    await part("npm", driver, async () => [await measureInstall(platform, driver, bare)]);
    await part("neighbours", driver, () => measureNeighbours(platform, driver));
    if (driver !== "bubblewrap") return;
    await part("burst", driver, async () => [
      await measureBurst(platform, driver, bare, Number(values.burst)),
    ]);
    await part("idle", driver, () => measureIdle(platform, driver, bare, Number(values.idle)));
  });
  if (!parts.has("pool")) return;
  const pool = { ...settings, HOST_POOL_MIN: "2", HOST_POOL_MAX: "4" };
  await withPlatform(pool, async (platform) => {
    await part("pool", driver, () => measurePool(platform, driver, bare, rounds * 2));
  });
}

const startLoad = loadavg()[0] ?? 0;
const bare = await BareTools.open();
try {
  for (const driver of values.drivers.split(",")) {
    await measureDriver(driver, bare).catch((error: unknown) => {
      say(`✗ ${driver}: ${(error as Error).message}`);
      remarks.push(`${driver} could not be measured on this machine.`);
    });
  }
} finally {
  bare.close();
}
const load = `load ${startLoad.toFixed(1)} at its start and ${(loadavg()[0] ?? 0).toFixed(1)} at its end`;
const head = `\`npm run bench:sandbox\` on ${new Date().toISOString().slice(0, 10)}, ${machine()}, ${load}:`;
const result = [head, table(rows), ...remarks.map((remark) => `- ${remark}`)]
  .join("\n\n")
  .replaceAll(/\n\n- /g, "\n- ");
process.stdout.write(`\n${result}\n`);
const document = join(import.meta.dirname, "..", "docs", "benchmarks.md");
writeFileSync(document, writeSection(readFileSync(document, "utf8"), "sandbox results", result));
