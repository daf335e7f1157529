// `npm run bench`: our steps and the bare tools that do the least of the same, by turns in one run.
// Writes the table of docs/benchmarks.md.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { startOwnPlatform } from "../e2e/full/own-platform.ts";
import { Peers } from "./bench/peers.ts";
import { measureAll } from "./bench/steps.ts";
import { machine, table, writeSection } from "./bench/timing.ts";

const document = join(import.meta.dirname, "..", "docs", "benchmarks.md");
const platform = await startOwnPlatform();
const peers = await Peers.open();
try {
  const rows = await measureAll(platform, peers);
  const result = `\`npm run bench\` on ${new Date().toISOString().slice(0, 10)}, ${machine()}:\n\n${table(rows)}`;
  process.stdout.write(`\n${result}\n`);
  writeFileSync(document, writeSection(readFileSync(document, "utf8"), "results", result));
} finally {
  await peers.close();
  await platform.stop();
}
