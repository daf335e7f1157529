import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { test } from "node:test";

const scripts = resolve(import.meta.dirname, "../scripts");

const files = {
  "spins.test.mjs": `import { test } from "node:test"; test("spins", () => { for (;;); });`,
  "holds.test.mjs": `import { test } from "node:test"; test("holds", () => { setInterval(() => {}, 1000); });`,
  "works.test.mjs": `import { test } from "node:test"; test("works", () => {});`,
  "run.mjs": `
    import { spawn } from "node:child_process";
    import { watchForStuckFiles } from "${scripts}/stuck-files.mjs";
    const environment = { PROGRESS: "progress", STUCK_MIN: "0.05" };
    const runner = spawn(process.execPath, ["--test", "--test-concurrency=1",
      "--test-reporter=${scripts}/failed-files.mjs", "--test-reporter-destination=record",
      "spins.test.mjs", "holds.test.mjs", "works.test.mjs"],
      { stdio: "inherit", env: { PATH: process.env.PATH, ...environment } });
    const stop = watchForStuckFiles(runner, environment);
    runner.on("close", stop);`,
};

test("a test file that hangs is ended and fails; the files after it still run", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "stuck-"));
  t.after(() => rm(folder, { recursive: true, force: true }));
  for (const [name, text] of Object.entries(files)) await writeFile(join(folder, name), text);
  const child = spawn(process.execPath, ["run.mjs"], { cwd: folder, env: { PATH: process.env["PATH"] } });
  let said = "";
  child.stdout.setEncoding("utf8").on("data", (part: string) => (said += part));
  child.stderr.setEncoding("utf8").on("data", (part: string) => (said += part));
  await once(child, "close");
  assert.match(said, /STUCK: .*spins\.test\.mjs did nothing for 0\.05 minutes/);
  const lines = (await readFile(join(folder, "record"), "utf8")).trim().split("\n");
  const failed = lines.map((line) => JSON.parse(line) as { file: string; failed: number });
  assert.deepEqual(
    failed.map(({ file, failed }) => [file.split("/").at(-1), failed > 0]),
    [
      ["holds.test.mjs", true],
      ["spins.test.mjs", true],
      ["works.test.mjs", false],
    ],
  );
});
