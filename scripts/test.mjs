// `npm test`: format, types, lint, import rules, then every test. `--full` adds the slow suites of e2e/full.
// The last line reads `N passed, N failed`.
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const isFull = process.argv.includes("--full");

/** The rest needs Node 24: this file runs on the machine's own first, then again on ours. */
async function onOwnNode() {
  const { ensurePackages, ensureToolchain } = await import("./toolchain.mjs");
  const node = ensureToolchain();
  ensurePackages();
  if (process.execPath === node) return true;
  const system = await import("./system-packages.mjs").catch(() => null);
  const say = (line) => process.stderr.write(`${line}\n`);
  const missing =
    system?.ensureSystemPackages({ path: process.env.PATH, isRoot: process.getuid() === 0, say }) ?? [];
  if (missing.length > 0) say("• tests that need it are skipped");
  const gvisor = await import("./gvisor-runtime.mjs").catch(() => null);
  gvisor?.ensureGvisorRuntime({ path: process.env.PATH, say });
  const child = spawn(node, process.argv.slice(1), { stdio: "inherit" });
  for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => child.kill(signal));
  child.on("exit", (code) => process.exit(code ?? 1));
  return false;
}

/** Runs a command, shows its output, and returns its text and status. */
function run(args, environment = {}) {
  return new Promise((resolve) => {
    // A clean environment: inherited PG* and proxy settings must not decide a test.
    const { PATH, HOME, LANG, TMPDIR, CI, NODE_EXTRA_CA_CERTS } = process.env;
    const env = Object.fromEntries(
      Object.entries({
        PATH,
        HOME,
        LANG,
        TMPDIR,
        CI,
        NODE_EXTRA_CA_CERTS,
        IMAGES_BUILD: "0",
        ...environment,
      }).filter(([, value]) => value !== undefined),
    );
    const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"], env });
    let text = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (chunk) => {
        text += chunk;
        process.stdout.write(chunk);
      });
    }
    child.on("close", (code) => resolve({ code, text }));
  });
}

const count = (text, name) => Number(new RegExp(`^(?:#|ℹ) ${name} (\\d+)`, "m").exec(text)?.[1] ?? 0);

async function main() {
  if (!(await onOwnNode())) return;
  // Node 20 does not have it, and this file starts there.
  const { globSync } = await import("node:fs");
  let passed = 0;
  let failed = 0;
  const skipped = [];
  const check = async (name, args) => {
    console.log(`\n== ${name}`);
    const { code } = await run(args);
    if (code === 0) passed += 1;
    else failed += 1;
    console.log(code === 0 ? `ok: ${name}` : `FAILED: ${name}`);
  };
  await check("format", ["node_modules/prettier/bin/prettier.cjs", "--check", "--log-level", "warn", "."]);
  await check("types", ["node_modules/typescript/bin/tsc", "-p", "."]);
  await check("lint", ["node_modules/eslint/bin/eslint.js", "."]);
  await check("import rules", [
    "node_modules/dependency-cruiser/bin/dependency-cruiser.mjs",
    "--config",
    ".dependency-cruiser.cjs",
    "packages",
    "apps",
    "e2e",
  ]);

  const scratch = mkdtempSync(join(tmpdir(), "tests-"));
  const suites = [
    {
      name: "unit and component tests",
      files: globSync("{packages,apps}/*/src/**/*.test.ts"),
      concurrency: 2,
    },
    { name: "end-to-end tests", files: globSync("e2e/*.test.ts"), concurrency: 1 },
    {
      name: "slow tests",
      files: globSync(["e2e/full/*.test.ts", "{packages,apps}/*/src/**/*.slow-test.ts"]),
      concurrency: 1,
      slow: true,
    },
  ];
  for (const suite of suites) {
    if (suite.files.length === 0) continue;
    if (suite.slow && !isFull) {
      skipped.push(`${suite.name} (${suite.files.length} files): run npm run test:full`);
      continue;
    }
    console.log(`\n== ${suite.name}`);
    const { code, text } = await run(
      ["--test", `--test-concurrency=${suite.concurrency}`, "--test-timeout=900000", ...suite.files.sort()],
      { SCRATCH: scratch },
    );
    const failures = count(text, "fail") + count(text, "cancelled");
    passed += count(text, "pass");
    failed += code !== 0 && failures === 0 ? 1 : failures;
    if (count(text, "skipped") > 0)
      skipped.push(`${count(text, "skipped")} of the ${suite.name}: the reason is beside each, marked ﹣`);
  }
  if (existsSync(scratch)) rmSync(scratch, { recursive: true, force: true });
  if (skipped.length > 0) console.log(`\nNot run:\n${skipped.map((line) => `  ${line}`).join("\n")}`);
  console.log(`\n${passed} passed, ${failed} failed`);
  process.exitCode = failed === 0 ? 0 : 1;
}

await main();
