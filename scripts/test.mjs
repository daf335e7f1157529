// `npm test`: format, types, lint, import rules, then every test. `--full` adds the slow suites; `--ci` adds as
// many of them as fit into CI_BUDGET_MIN minutes (38), quick ones first, and names the others.
// A file with a failed test runs once more by itself; when it passes then, it counts as passed and is named.
// The last line reads `N passed, N failed`.
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative, resolve } from "node:path";
import { endTree, watchForStuckFiles } from "./stuck-files.mjs";

const isFull = process.argv.includes("--full");
const isCi = process.argv.includes("--ci");
const startedAt = Number(process.argv.find((word) => word.startsWith("--since="))?.slice(8) ?? Date.now());
const minutesLeft = () =>
  isCi ? Number(process.env.CI_BUDGET_MIN ?? 38) - (Date.now() - startedAt) / 60_000 : Infinity;

/**
 * Minutes that a slow suite takes on two busy cores; the shortest go first.
 * For those not named it is a guess.
 */
const slowMinutes = {
  "e2e/full/durability.test.ts": 5,
  "e2e/full/creates.test.ts": 2,
  "apps/edge/src/haproxy/haproxy.slow-test.ts": 1,
  "e2e/full/templates.test.ts": 2,
  "apps/host/src/images/images.slow-test.ts": 9,
  "e2e/full/restart.test.ts": 4,
  "e2e/full/lost-process.test.ts": 3,
  "apps/control-plane/src/certificates/acme.slow-test.ts": 6,
  "e2e/full/kill.test.ts": 15,
  "e2e/full/database-kill.test.ts": 7,
  "apps/control-plane/src/deployments/deploys.slow-test.ts": 4,
  "e2e/full/same-digest.test.ts": 3,
  "e2e/full/cancel-build.test.ts": 2,
  "e2e/full/build-limits.test.ts": 3,
  "e2e/full/upload.test.ts": 4,
  "e2e/full/rotate-and-rollback.test.ts": 1,
  "e2e/full/orm-clients.test.ts": 2,
  "e2e/full/cron-under-fire.test.ts": 5,
  "e2e/full/preview-memory.test.ts": 1,
  "e2e/full/promote-load.test.ts": 4,
  "e2e/full/broken-projects.test.ts": 6,
  "apps/host/src/drivers/qemu/qemu.slow-test.ts": 12,
  "apps/host/src/drivers/qemu/restore-pool.slow-test.ts": 8,
  "apps/host/src/abuse/neighbours.slow-test.ts": 6,
  "apps/host/src/drivers/gvisor/relief.slow-test.ts": 3,
  "e2e/full/edge-outage.test.ts": 5,
  "apps/edge/src/hard-to-kill.slow-test.ts": 5,
};
const guessedMinutes = 4;
/** Slow suites that were seen to pass on a machine like CI's; the others would let a busy minute stop a change. */
const steadyInCi = new Set([
  "apps/control-plane/src/deployments/deploys.slow-test.ts",
  "e2e/full/sandbox-client.test.ts",
  "e2e/full/lost-process.test.ts",
  "e2e/full/creates.test.ts",
  "apps/edge/src/haproxy/haproxy.slow-test.ts",
  "e2e/full/durability.test.ts",
  "e2e/full/same-digest.test.ts",
  "e2e/full/cancel-build.test.ts",
  "e2e/full/build-limits.test.ts",
  "e2e/full/rotate-and-rollback.test.ts",
  "e2e/full/preview-memory.test.ts",
  "e2e/full/upload.test.ts",
  "e2e/full/broken-projects.test.ts",
  "apps/control-plane/src/certificates/acme.slow-test.ts",
]);
/** Beyond CI_BUDGET_MIN, for second runs. */
const MOST_MINUTES_OVER = 8;
/** Beyond CI_BUDGET_MIN, after which whatever still runs is ended and counts as failed. */
const MOST_MINUTES_IN_ALL_OVER = 15;
/** Files with a failure that are run once more, of one suite. */
const MOST_SECOND_RUNS = 5;
/** Of a thousand creates, of two gigabytes and of all broken projects, what fits into a run with a budget. */
const ciSizes = { CREATES: "60", UPLOAD_MB: "24", BROKEN_EVERY: "8" };

/** The rest needs Node 24: this file runs on the machine's own first, then again on ours. */
async function onOwnNode() {
  const { ensurePackages, ensureToolchain } = await import("./toolchain.mjs");
  const node = ensureToolchain();
  ensurePackages();
  // Both as they really are: one of the two may be reached through a link.
  if (realpathSync(process.execPath) === realpathSync(node)) return true;
  const system = await import("./system-packages.mjs").catch(() => null);
  const say = (line) => process.stderr.write(`${line}\n`);
  const missing =
    system?.ensureSystemPackages({
      ...{
        path: process.env.PATH,
        isRoot: process.getuid() === 0,
        say,
        forSlowTests: isFull || (isCi && "ci"),
      },
    }) ?? [];
  if (missing.length > 0) say("• tests that need it are skipped");
  const gvisor = await import("./gvisor-runtime.mjs").catch(() => null);
  gvisor?.ensureGvisorRuntime({ path: process.env.PATH, say });
  const client = await import("./postgres-client.mjs").catch(() => null);
  client?.ensurePostgresClient({ path: process.env.PATH, say });
  const child = spawn(node, [...process.argv.slice(1), `--since=${startedAt}`], { stdio: "inherit" });
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
    const last = Math.min(2 ** 31 - 1, (minutesLeft() + MOST_MINUTES_IN_ALL_OVER) * 60_000);
    const tooLate = setTimeout(() => {
      console.log("\nFAILED: the budget is used up; what still ran was ended");
      endTree(child.pid);
      child.kill("SIGKILL");
    }, last);
    const stopWatching = environment.PROGRESS ? watchForStuckFiles(child, environment) : () => undefined;
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (chunk) => {
        text += chunk;
        process.stdout.write(chunk);
      });
    }
    child.on("close", (code) => {
      clearTimeout(tooLate);
      stopWatching();
      resolve({ code, text });
    });
  });
}

const count = (text, name) => Number(new RegExp(`^(?:#|ℹ) ${name} (\\d+)`, "m").exec(text)?.[1] ?? 0);

const expectedMinutes = (file) => slowMinutes[file] ?? guessedMinutes;

async function main() {
  if (!(await onOwnNode())) return;
  // Node 20 does not have it, and this file starts there.
  const { globSync } = await import("node:fs");
  let passed = 0;
  let failed = 0;
  let records = 0;
  const skipped = [];
  const unsteady = [];
  const scratch = mkdtempSync(join(tmpdir(), "tests-"));
  const check = async (name, args) => {
    console.log(`\n== ${name}`);
    const { code } = await run(args);
    if (code === 0) passed += 1;
    else failed += 1;
    console.log(code === 0 ? `ok: ${name}` : `FAILED: ${name}`);
  };
  const runOnce = async (files, concurrency, timeoutMinutes, environment) => {
    const record = join(scratch, `record-${++records}`);
    const { code, text } = await run(
      [
        ...["--test", `--test-concurrency=${concurrency}`, `--test-timeout=${timeoutMinutes * 60_000}`],
        ...["--test-reporter=spec", "--test-reporter-destination=stdout"],
        ...["--test-reporter=./scripts/failed-files.mjs", `--test-reporter-destination=${record}`],
        ...files,
      ],
      {
        SCRATCH: scratch,
        PROGRESS: `${record}-progress`,
        STUCK_MIN: `${timeoutMinutes + 1}`,
        ...environment,
      },
    );
    const lines = existsSync(record) ? readFileSync(record, "utf8").trim().split("\n") : [];
    const seen = lines.filter((line) => line !== "").map((line) => JSON.parse(line));
    const failures = count(text, "fail") + count(text, "cancelled");
    const result = { passed: count(text, "pass"), failed: code !== 0 ? failures || 1 : failures };
    return { ...result, skipped: count(text, "skipped"), bad: seen.filter(({ failed }) => failed > 0) };
  };
  const runTests = async (name, files, concurrency, timeoutMinutes, environment) => {
    console.log(`\n== ${name}`);
    const total = await runOnce(files, concurrency, timeoutMinutes, environment);
    // More of them than this is no accident.
    // A test that stands in a file of helpers cannot be run by that file: nothing would run, and so nothing fail.
    const own = new Set(files.map((file) => resolve(file)));
    const again = total.bad.length <= MOST_SECOND_RUNS ? total.bad.filter(({ file }) => own.has(file)) : [];
    for (const { file, names, ...first } of again) {
      const path = relative(process.cwd(), file);
      if (minutesLeft() < -MOST_MINUTES_OVER) continue;
      console.log(`\n== once more, by itself: ${path}`);
      const second = await runOnce([file], 1, timeoutMinutes, environment);
      if (second.failed > 0 || second.passed === 0) continue;
      total.passed += second.passed - first.passed;
      total.failed = Math.max(0, total.failed - first.failed);
      unsteady.push(`${path}: ${names.join("; ")}`);
    }
    passed += total.passed;
    failed += total.failed;
    if (total.skipped > 0)
      skipped.push(`${total.skipped} of the ${name}: the reason is beside each, marked ﹣`);
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

  const suites = [
    {
      name: "unit and component tests",
      files: globSync("{packages,apps}/*/src/**/*.test.ts"),
      concurrency: 2,
    },
    { name: "end-to-end tests", files: globSync("e2e/*.test.ts"), concurrency: 1 },
  ];
  const slow = globSync(["e2e/full/*.test.ts", "{packages,apps}/*/src/**/*.slow-test.ts"]).sort(
    (a, b) => expectedMinutes(a) - expectedMinutes(b),
  );
  for (const suite of suites) {
    if (suite.files.length === 0) continue;
    await runTests(suite.name, suite.files.sort(), suite.concurrency, 8, {});
  }
  if (!isFull && !isCi) skipped.push(`slow tests (${slow.length} files): run npm run test:full`);
  for (const file of isFull || isCi ? slow : []) {
    if (isCi && !isFull && !steadyInCi.has(file)) {
      skipped.push(`${file}: not yet steady enough for CI; run npm run test:full`);
      continue;
    }
    const left = minutesLeft();
    if (left < expectedMinutes(file)) {
      const why = `takes about ${expectedMinutes(file)} minutes, ${Math.max(0, Math.floor(left))} of CI_BUDGET_MIN are left`;
      skipped.push(`${file}: ${why}; run npm run test:full`);
      continue;
    }
    const sizes = Object.entries(ciSizes).map(([name, few]) => [
      name,
      process.env[name] ?? (isCi ? few : undefined),
    ]);
    await runTests(file, [file], 1, Math.min(120, Math.ceil(left)), Object.fromEntries(sizes));
  }
  if (existsSync(scratch)) rmSync(scratch, { recursive: true, force: true });
  if (skipped.length > 0) console.log(`\nNot run:\n${skipped.map((line) => `  ${line}`).join("\n")}`);
  if (unsteady.length > 0)
    console.log(`\nFailed at first, passed by itself:\n${unsteady.map((line) => `  ${line}`).join("\n")}`);
  console.log(`\n${passed} passed, ${failed} failed`);
  process.exitCode = failed === 0 ? 0 : 1;
}

await main();
