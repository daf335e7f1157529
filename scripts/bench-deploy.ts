// `npm run bench:deploy`: publish, promote, rollback, wake and upload beside the bare tools, by turns in one run.
// Writes the section "Deployments" of docs/benchmarks.md.
import { readFileSync, writeFileSync } from "node:fs";
import { loadavg } from "node:os";
import { join } from "node:path";
import { startOwnPlatform } from "../e2e/full/own-platform.ts";
import { measureReleases, measureUpload } from "./bench/deploy.ts";
import { Peers } from "./bench/peers.ts";
import { machine, table, writeSection } from "./bench/timing.ts";

const document = join(import.meta.dirname, "..", "docs", "benchmarks.md");
const before = loadavg()[0]!.toFixed(1);
const platform = await startOwnPlatform();
const peers = await Peers.open();
try {
  const rows = [...(await measureReleases(platform, peers, true)), await measureUpload(platform, peers)];
  const load = `load ${before} at its start and ${loadavg()[0]!.toFixed(1)} at its end`;
  const day = new Date().toISOString().slice(0, 10);
  const result = `\`npm run bench:deploy\` on ${day}, ${machine()}, ${load}:\n\n${table(rows)}`;
  process.stdout.write(`\n${result}\n`);
  writeFileSync(document, writeSection(readFileSync(document, "utf8"), "deploy results", result));
} finally {
  await peers.close();
  await platform.stop();
}
