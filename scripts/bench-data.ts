// `npm run bench:data -- --parts=logins,spares,copies,objects,stream --rounds=8 --stream-mb=2048`
// Databases and buckets beside the bare servers they are made of, by turns in one run. Writes the section
// "Databases and buckets" of docs/benchmarks.md.
import { readFileSync, writeFileSync } from "node:fs";
import { loadavg } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { startOwnPlatform, type OwnPlatform } from "../e2e/full/own-platform.ts";
import { BareServers } from "./bench/data/bare.ts";
import { measureCopies, measureLogins } from "./bench/data/databases.ts";
import { measureObjects, measureStream } from "./bench/data/objects.ts";
import { Peers } from "./bench/peers.ts";
import { machine, table, writeSection, type Row } from "./bench/timing.ts";

const { values } = parseArgs({
  options: {
    parts: { type: "string", default: "logins,spares,copies,objects,stream" },
    rounds: { type: "string", default: "8" },
    "stream-mb": { type: "string", default: "2048" },
  },
});
const parts = new Set(values.parts.split(","));
const rounds = Number(values.rounds);
const rows: Row[] = [];
const remarks: string[] = [];
const startLoad = loadavg()[0]!;

async function part(name: string, work: () => Promise<Row[] | string>): Promise<void> {
  if (!parts.has(name)) return;
  process.stderr.write(`• ${name}\n`);
  const seen = await work();
  if (typeof seen === "string") remarks.push(seen);
  else rows.push(...seen);
}

async function withPlatform(
  settings: Record<string, string>,
  work: (platform: OwnPlatform) => Promise<void>,
) {
  const platform = await startOwnPlatform(settings);
  try {
    await work(platform);
  } finally {
    await platform.stop();
  }
}

const bare = await BareServers.open();
const peers = await Peers.open();
try {
  await withPlatform({ HOST_SPARES_MAX: "0" }, async (platform) => {
    await part("logins", () => measureLogins(platform, bare, peers, { rounds, how: "made when asked for" }));
    await part("copies", () => measureCopies(platform, Math.max(2, Math.round(rounds / 2))));
    await part("objects", () => measureObjects(platform, bare));
    await part("stream", () => measureStream(platform, Number(values["stream-mb"])));
  });
  if (parts.has("spares"))
    await withPlatform({}, (platform) =>
      part("spares", () => measureLogins(platform, bare, peers, { rounds, how: "spares made before" })),
    );
} finally {
  await peers.close();
  bare.close();
}
const load = `load ${startLoad.toFixed(1)} at its start and ${loadavg()[0]!.toFixed(1)} at its end`;
const head = `\`npm run bench:data\` on ${new Date().toISOString().slice(0, 10)}, ${machine()}, ${load}:`;
const result = [head, table(rows), remarks.map((remark) => `- ${remark}`).join("\n")].join("\n\n");
process.stdout.write(`\n${result}\n`);
const document = join(import.meta.dirname, "..", "docs", "benchmarks.md");
writeFileSync(document, writeSection(readFileSync(document, "utf8"), "data results", result));
