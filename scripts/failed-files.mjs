// A reporter for Node's test runner: one JSON line per test file, with how many of its tests passed, failed and
// were skipped. Suites are not tests.
export default async function* failedFiles(source) {
  const files = new Map();
  for await (const { type, data } of source) {
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
