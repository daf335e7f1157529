import { Sandbox } from "@e2b/code-interpreter";
import assert from "node:assert/strict";
import type { StepResult } from "./step.ts";

/* What its maker builds on the client: a code interpreter, as published, with nothing but a domain and a key. */
const sandbox = await Sandbox.create({ timeoutMs: 300_000 });

const steps: [string, () => Promise<void>][] = [
  [
    "a cell of Python prints, and its last expression is the result; the next cell knows what it defined",
    async () => {
      const printed: string[] = [];
      const first = await sandbox.runCode("x = 20\nprint('half', x)\nx * 2 + 2", {
        onStdout: ({ line }) => {
          printed.push(line);
        },
      });
      assert.equal(first.text, "42");
      assert.equal(first.error, undefined);
      assert.deepEqual([first.logs.stdout.join(""), printed.join("")], ["half 20\n", "half 20\n"]);
      const second = await sandbox.runCode("x + 1");
      assert.deepEqual([second.text, second.executionCount], ["21", 2]);
    },
  ],
  [
    "an error is told with its lines, and files of the sandbox are at hand",
    async () => {
      const { error } = await sandbox.runCode("1 / 0");
      assert.equal(error?.name, "ZeroDivisionError");
      assert.match(error.traceback, /line 1/);
      await sandbox.files.write("/tmp/given", "from the client");
      assert.equal((await sandbox.runCode("open('/tmp/given').read()")).text, "from the client");
    },
  ],
  [
    "results come in the formats that they offer, and variables are for one cell",
    async () => {
      const code = "class T:\n  def _repr_html_(self): return '<b>t</b>'\nT()";
      const { results } = await sandbox.runCode(code);
      assert.equal(results[0]?.html, "<b>t</b>");
      const given = await sandbox.runCode("import os; os.environ['ONE']", { envs: { ONE: "now" } });
      assert.equal(given.text, "now");
    },
  ],
  [
    "contexts are made, listed, restarted and removed",
    async () => {
      const context = await sandbox.createCodeContext({ language: "python", cwd: "/tmp" });
      assert.equal((await sandbox.runCode("import os; os.getcwd()", { context })).text, "/tmp");
      assert.equal((await sandbox.runCode("x", { context })).error?.name, "NameError");
      assert.ok((await sandbox.listCodeContexts()).some(({ id }) => id === context.id));
      await sandbox.runCode("y = 1", { context });
      await sandbox.restartCodeContext(context);
      assert.equal((await sandbox.runCode("y", { context })).error?.name, "NameError");
      await sandbox.removeCodeContext(context);
      await assert.rejects(sandbox.runCode("1", { context }), { name: "NotFoundError" });
    },
  ],
  [
    "JavaScript, TypeScript and bash run too; another language is refused by its name",
    async () => {
      const js = await sandbox.runCode("const n = await Promise.resolve(41); n + 1", { language: "js" });
      assert.equal(js.text, "42");
      const ts = await sandbox.runCode("const m: number = n; m", { language: "ts" });
      assert.equal(ts.text, "41");
      const shell = await sandbox.runCode("echo in $0", { language: "bash" });
      assert.match(shell.logs.stdout.join(""), /^in .*\n$/);
      await assert.rejects(sandbox.runCode("1", { language: "r" }), /400/);
    },
  ],
  [
    "a cell that runs too long is interrupted, and the context goes on",
    async () => {
      const late = sandbox.runCode("import time\ntime.sleep(600)", { timeoutMs: 1500 });
      await assert.rejects(late, { name: "TimeoutError" });
      assert.equal((await sandbox.runCode("x")).text, "20");
    },
  ],
  [
    "code is run for whoever has the sandbox's token, and for nobody else",
    async () => {
      const url = `https://${sandbox.getHost(49_999)}/execute`;
      const body = JSON.stringify({ code: "1" });
      const answer = await fetch(url, { method: "POST", body });
      assert.equal(answer.status, 401);
      await sandbox.kill();
    },
  ],
];

for (const [name, run] of steps) {
  let error: string | null = null;
  try {
    await run();
  } catch (thrown) {
    error = thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown);
  }
  process.stdout.write(`${JSON.stringify({ name, error } satisfies StepResult)}\n`);
}
process.exit(0);
