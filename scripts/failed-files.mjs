// A reporter for Node's test runner: one JSON line per test file, with how many of its tests passed, failed and
// were skipped. Suites are not tests. Meanwhile it notes in PROGRESS what each file did last, for stuck-files.mjs.
import { appendFileSync } from "node:fs";

/** They come as things happen; the others come in the order of the files. */
const asItHappens = new Set(["test:dequeue", "test:complete"]);

export default async function* failedFiles(source) {
  const files = new Map();
  const progress = process.env.PROGRESS;
  for await (const { type, data } of source) {
    if (progress !== undefined && asItHappens.has(type) && data.file !== undefined) {
      const isOver = type === "test:complete" && data.nesting === 0 && data.file.endsWith(data.name);
      appendFileSync(progress, `${JSON.stringify({ file: data.file, name: data.name, isOver })}\n`);
    }
    if (type !== "test:pass" && type !== "test:fail") continue;
    if (data.details?.type === "suite" || data.file === undefined) continue;
    const counts = files.get(data.file) ?? { file: data.file, passed: 0, failed: 0, skipped: 0, names: [] };
    files.set(data.file, counts);
    if (type === "test:fail") {
      counts.failed += 1;
      counts.names.push(data.name);
    } else if (data.skip !== undefined) counts.skipped += 1;
    else counts.passed += 1;
  }
  for (const counts of files.values()) yield `${JSON.stringify(counts)}\n`;
}
