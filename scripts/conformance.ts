// `npm run conformance -- [driver…]`: runs the conformance suite and writes what it saw into docs/sandboxes.md.
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { run } from "node:test";

const root = join(import.meta.dirname, "..");
const suite = join(root, "apps/host/src/drivers/conformance/conformance.test.ts");
const page = join(root, "docs/sandboxes.md");
const [begin, end] = ["<!-- matrix -->", "<!-- /matrix -->"];
/** Columns in this order; a driver that is not there yet has none. */
const order = ["firecracker", "qemu", "gvisor", "bubblewrap"];

/** Text of a cell by capability. */
type Column = Map<string, string>;

const asked = process.argv.slice(2);
const drivers = asked.length > 0 ? asked : ["gvisor", "bubblewrap"];

interface Outcome {
  readonly capability: string;
  readonly driver: string;
  readonly text: string;
}

/** One driver after the other: they would measure each other's load. */
async function prove(driver: string): Promise<Outcome[]> {
  const outcomes: Outcome[] = [];
  const tests = run({
    files: [suite],
    env: { ...process.env, CONFORMANCE_DRIVERS: driver },
    timeout: driver === "qemu" ? 7_200_000 : 900_000,
  });
  let whyNot: string | null = null;
  const note = (name: string, nesting: number, text: string) => {
    if (nesting === 1) outcomes.push({ capability: name, driver, text });
    process.stdout.write(`${"  ".repeat(nesting)}${text}: ${name}\n`);
  };
  for await (const event of tests) {
    if (event.type === "test:pass") {
      const { name, nesting, skip } = event.data;
      if (nesting === 0 && typeof skip === "string") whyNot = skip;
      note(name, nesting, typeof skip === "string" ? skip : "pass");
    } else if (event.type === "test:fail") {
      note(event.data.name, event.data.nesting, "FAILED");
      if (event.data.nesting === 1) console.error(event.data.details.error.cause);
    } else if (event.type === "test:stderr") process.stderr.write(event.data.message);
  }
  if (whyNot !== null) outcomes.push({ capability: "", driver, text: whyNot });
  return outcomes;
}

/** What an earlier run wrote about other drivers is kept. */
function readMatrix(section: string): { rows: string[]; columns: Map<string, Column> } {
  const lines = section.split("\n").filter((line) => line.startsWith("|"));
  const cells = lines.map((line) =>
    line
      .split("|")
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );
  const [head = [], , ...body] = cells;
  const columns = new Map<string, Column>();
  for (const [at, name] of head.entries()) {
    if (at === 0) continue;
    columns.set(name.replaceAll("`", ""), new Map(body.map((row) => [row[0] ?? "", row[at] ?? ""])));
  }
  return { rows: body.map((row) => row[0] ?? ""), columns };
}

function writeMatrix(rows: readonly string[], columns: ReadonlyMap<string, Column>): string {
  const names = [...columns.keys()].toSorted((a, b) => order.indexOf(a) - order.indexOf(b));
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  return [
    line(["capability", ...names.map((name) => `\`${name}\``)]),
    line(["---", ...names.map(() => "---")]),
    ...rows.map((row) => line([row, ...names.map((name) => columns.get(name)?.get(row) ?? "not run")])),
  ].join("\n");
}

const text = await readFile(page, "utf8");
const [before = "", rest = ""] = text.split(begin);
const [section = "", after = ""] = rest.split(end);
const { rows, columns } = readMatrix(section);
let hasFailed = false;
for (const driver of drivers) {
  const outcomes = await prove(driver);
  hasFailed ||= outcomes.some((outcome) => outcome.text === "FAILED");
  const whole = outcomes.find(({ capability }) => capability === "");
  const seen = outcomes.filter(({ capability }) => capability !== "");
  for (const { capability } of seen) if (!rows.includes(capability)) rows.push(capability);
  columns.set(
    driver,
    new Map(whole ? rows.map((row) => [row, whole.text]) : seen.map((one) => [one.capability, one.text])),
  );
}
const day = new Date().toISOString().slice(0, 10);
const head = `Last run: \`npm run conformance -- ${drivers.join(" ")}\` on ${day}; a driver not named there keeps what an earlier run saw.`;
await writeFile(page, `${before}${begin}\n\n${head}\n\n${writeMatrix(rows, columns)}\n\n${end}${after}`);
process.exitCode = hasFailed ? 1 : 0;
