// `npm run bench`: our steps and the bare tools that do the least of the same, by turns in one run.
// Writes the table of docs/benchmarks.md.
import { readFileSync, writeFileSync } from "node:fs";
import { cpus, totalmem } from "node:os";
import { join } from "node:path";
import { startOwnPlatform } from "../e2e/full/own-platform.ts";
import { Peers } from "./bench/peers.ts";
import { measureAll } from "./bench/steps.ts";
import type { Row } from "./bench/timing.ts";

const document = join(import.meta.dirname, "..", "docs", "benchmarks.md");
const [begin, end] = ["<!-- results -->", "<!-- /results -->"];

const ms = (value: number) => (value < 10 ? value.toFixed(1) : String(Math.round(value)));

function table(rows: readonly Row[]): string {
  const lines = rows.map(({ name, ours, peerName, peer }) =>
    [
      name,
      ours.count,
      ms(ours.p50),
      ms(ours.p95),
      peerName,
      ms(peer.p50),
      ms(peer.p95),
      (ours.p50 / peer.p50).toFixed(1),
    ].join(" | "),
  );
  return [
    "| step | n | P50 ms | P95 ms | the bare peer | P50 ms | P95 ms | ratio of P50 |",
    "| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: |",
    ...lines.map((line) => `| ${line} |`),
  ].join("\n");
}

const machine = () =>
  `${cpus().length} × ${cpus()[0]?.model.trim() ?? "CPU"}, ${Math.round(totalmem() / 2 ** 30)} GiB, Node ${process.version}`;

const platform = await startOwnPlatform();
const peers = await Peers.open();
try {
  const rows = await measureAll(platform, peers);
  const result = `\`npm run bench\` on ${new Date().toISOString().slice(0, 10)}, ${machine()}:\n\n${table(rows)}`;
  process.stdout.write(`\n${result}\n`);
  const text = readFileSync(document, "utf8");
  const [before, after] = [text.split(begin)[0]!, text.split(end)[1] ?? ""];
  writeFileSync(document, `${before}${begin}\n\n${result}\n\n${end}${after}`);
} finally {
  await peers.close();
  await platform.stop();
}
