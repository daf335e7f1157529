// `npm run corpus [-- WORD...]`: publishes the projects whose names hold a word, all without one, and writes
// what came of it to docs/corpus.md. Projects that are not run keep their last result.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { startOwnPlatform } from "../own-platform.ts";
import { projects, type Project } from "./projects.ts";
import { publishProject, type Outcome } from "./publish-project.ts";

const resultsPath = join(import.meta.dirname, "results.json");
const tablePath = join(import.meta.dirname, "..", "..", "..", "docs", "corpus.md");

type Results = Record<string, Outcome & { at: string }>;

const cell = (text: string) => text.replaceAll("|", "\\|").replace(/\s+/g, " ").trim();

function table(results: Results): string {
  const rows = projects.map((project) => {
    const seen = results[project.name];
    if (!seen) return `| ${project.name} | ${project.kind} | | | never run | |`;
    const outcome = seen.ok ? "answers with its mark" : `**fails**: ${cell(seen.note)}`;
    return `| ${project.name} | ${seen.kind ?? project.kind} | ${seen.framework ?? ""} | ${seen.packageManager ?? ""} | ${outcome} | ${seen.seconds} |`;
  });
  const good = projects.filter(({ name }) => results[name]?.ok).length;
  const run = projects.filter(({ name }) => results[name]).length;
  const days = [...new Set(Object.values(results).map(({ at }) => at))].sort();
  const when = days.map(
    (day) => `${day} (${projects.filter(({ name }) => results[name]?.at === day).length})`,
  );
  return `# Corpus of real projects

Written by \`npm run corpus\`. Each project is generated from a public starter on npm or written by hand with exact versions
(e2e/full/corpus/projects.ts). Its development server runs in a sandbox until the preview URL shows its own mark (e2e/full/corpus/preview.ts);
then it is published without saying anything about it, deployed, and asked for the mark at its public URL. ${good} of ${projects.length} answer; ${projects.length - run} were never run. Seconds include the sandbox, the starter and the install.
Run on: ${when.join(", ")}.

| project | kind | framework seen | packages by | outcome | seconds |
| --- | --- | --- | --- | --- | --- |
${rows.join("\n")}
`;
}

const read = (): Results =>
  existsSync(resultsPath) ? (JSON.parse(readFileSync(resultsPath, "utf8")) as Results) : {};

function write(project: Project, outcome: Outcome): void {
  const results = { ...read(), [project.name]: { ...outcome, at: new Date().toISOString().slice(0, 10) } };
  writeFileSync(resultsPath, `${JSON.stringify(results, null, 2)}\n`);
  writeFileSync(tablePath, table(results));
}

const words = process.argv.slice(2).map((word) => word.toLowerCase());
const chosen = projects.filter(
  ({ name }) => words.length === 0 || words.some((word) => name.toLowerCase().includes(word)),
);
const platform = await startOwnPlatform();
let failed = 0;
try {
  for (const project of chosen) {
    const outcome = await publishProject(platform, project);
    if (!outcome.ok) failed++;
    write(project, outcome);
    console.log(`${outcome.ok ? "✓" : "✗"} ${project.name} (${outcome.seconds} s) ${outcome.note}`);
  }
} finally {
  await platform.stop();
}
console.log(`${chosen.length - failed} of ${chosen.length} answer`);
process.exitCode = failed === 0 ? 0 : 1;
