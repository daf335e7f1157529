import assert from "node:assert/strict";
import { request as httpRequest } from "node:http";
import { createInterface } from "node:readline";
import { test, type TestContext } from "node:test";
import { startAgent } from "../test-agent.ts";

type Event = { type: string; text?: string; [name: string]: unknown };

/** A client of this agent's code interpreter, without anything of ours in it. */
async function interpreter(t: TestContext) {
  const { socketPath, workdir } = await startAgent(t);
  const ask = (
    method: string,
    path: string,
    body?: unknown,
    onEvent?: (event: Event) => void,
    signal?: AbortSignal,
  ) =>
    new Promise<{ status: number; events: Event[] }>((resolve, reject) => {
      const sent = httpRequest({
        socketPath,
        method,
        path: `/interpreter${path}`,
        ...(signal ? { signal } : {}),
      });
      sent.once("error", reject);
      sent.once("response", (response) => {
        const events: Event[] = [];
        response.once("error", reject);
        const lines = createInterface({ input: response }).on("error", reject);
        lines.on("line", (line) => {
          const event = JSON.parse(line) as Event;
          events.push(event);
          onEvent?.(event);
        });
        lines.once("close", () => resolve({ status: response.statusCode ?? 0, events }));
      });
      sent.end(body === undefined ? undefined : JSON.stringify(body));
    });
  const run = async (code: string, more: Record<string, unknown> = {}) => {
    const { status, events } = await ask("POST", "/execute", { code, ...more });
    assert.equal(status, 200, JSON.stringify(events));
    const of = (type: string) => events.filter((event) => event.type === type);
    const text = (type: string) =>
      of(type)
        .map((event) => event.text)
        .join("");
    return {
      events,
      stdout: text("stdout"),
      stderr: text("stderr"),
      results: of("result"),
      error: of("error")[0],
    };
  };
  return { ask, run, workdir };
}

test("Python: what one cell defines the next ones know; the last expression is the result", async (t) => {
  const { run, workdir } = await interpreter(t);
  assert.deepEqual((await run("import math\nx = 20\ndef twice(n): return 2 * n")).results, []);
  const { results, stdout } = await run("print('half', x)\ntwice(x) + 2");
  assert.equal(stdout, "half 20\n");
  assert.equal(results[0]!.text, "42");
  assert.equal(results[0]!["is_main_result"], true);
  assert.equal((await run("import os; os.getcwd()")).results[0]!.text, workdir);
  assert.deepEqual((await run("x;")).results, []);
  assert.equal((await run("import asyncio\nawait asyncio.sleep(0)\nx")).results[0]!.text, "20");
  assert.equal((await run("'a text'")).results[0]!.text, "a text");
  const count = (await run("1")).events.find(({ type }) => type === "number_of_executions");
  assert.equal(count?.["execution_count"], 7);
});

test("Python: an error has its name, words and the lines of the cell alone, and the context goes on", async (t) => {
  const { run } = await interpreter(t);
  const { error, stdout } = await run("kept = 1\nprint('before')\ndef fail():\n  return 1 / 0\nfail()");
  assert.equal(stdout, "before\n");
  assert.deepEqual([error!["name"], error!["value"]], ["ZeroDivisionError", "division by zero"]);
  assert.match(String(error!["traceback"]), /<cell 1>", line 5[\s\S]*return 1 \/ 0/);
  assert.doesNotMatch(String(error!["traceback"]), /kernels|python\.py/);
  assert.equal((await run("this is no python")).error!["name"], "SyntaxError");
  assert.equal((await run("raise SystemExit(3)")).error!["name"], "SystemExit");
  assert.equal((await run("kept")).results[0]!.text, "1");
});

test("Python: rich results, displays, variables for one cell, commands and programs", async (t) => {
  const { run } = await interpreter(t);
  const rich = `class Table:
  def _repr_html_(self): return "<b>1</b>"
  def _repr_png_(self): return b"\\x89PNG"
  def __repr__(self): return "Table"
display(Table())
Table()`;
  const { results } = await run(rich);
  assert.equal(results.length, 2);
  assert.deepEqual(
    results.map((result) => [result.text, result["html"], result["png"], result["is_main_result"]]),
    [
      ["Table", "<b>1</b>", "iVBORw==", false],
      ["Table", "<b>1</b>", "iVBORw==", true],
    ],
  );
  assert.equal(
    (await run("import os; os.environ['ONE']", { env_vars: { ONE: "now" } })).results[0]!.text,
    "now",
  );
  assert.equal((await run("os.environ.get('ONE', 'gone')")).results[0]!.text, "gone");
  assert.equal((await run("!echo from a shell; echo err >&2")).stdout, "from a shell\nerr\n");
  const program = await run(
    "import subprocess; subprocess.run(['sh', '-c', 'echo out; echo err >&2']).returncode",
  );
  assert.deepEqual([program.stdout, program.stderr, program.results[0]!.text], ["out\n", "err\n", "0"]);
  assert.equal((await run("import sys; sys.stdin.read()")).results[0]!.text, "");
});

test("output arrives while a cell runs, whole and in order also when there is much of it", async (t) => {
  const { ask, run, workdir } = await interpreter(t);
  let seen = "";
  const gate = `import os, time
print("first", flush=True)
while not os.path.exists("${workdir}/go"): time.sleep(0.01)
print("second")`;
  const { writeFile } = await import("node:fs/promises");
  await ask("POST", "/execute", { code: gate }, ({ type, text }) => {
    if (type !== "stdout") return;
    seen += text;
    if (seen === "first\n") void writeFile(`${workdir}/go`, "");
  });
  assert.equal(seen, "first\nsecond\n");
  const { stdout } = await run("for n in range(200000): print(n)");
  assert.equal(stdout.split("\n")[199_999], "199999");
});

test("who leaves interrupts the cell, and what the context knew stays; a cell that will not stop is ended", async (t) => {
  const { ask, run } = await interpreter(t);
  await run("kept = 'still here'");
  const leave = async (code: string) => {
    const left = new AbortController();
    await assert.rejects(
      ask("POST", "/execute", { code }, () => left.abort(), left.signal),
      /aborted/,
    );
  };
  await leave("import time\nprint('begun', flush=True)\ntime.sleep(600)");
  assert.equal((await run("kept")).results[0]!.text, "still here");
  await leave(
    "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('begun', flush=True)\ntime.sleep(600)",
  );
  assert.equal((await run("'kept' in globals()")).results[0]!.text, "False");
  const { error } = await run("import os; os.kill(os.getpid(), 9)");
  assert.equal(error!["name"], "ContextEnded");
  assert.equal((await run("1 + 1")).results[0]!.text, "2");
});

test("contexts are apart from each other, listed, restarted and removed", async (t) => {
  const { ask, run } = await interpreter(t);
  const made = (await ask("POST", "/contexts", { language: "python", cwd: "/tmp" })).events[0]!;
  assert.deepEqual([made["language"], made["cwd"]], ["python", "/tmp"]);
  const id = String(made["id"]);
  await run("secret = 7", { context_id: id });
  assert.equal((await run("secret")).error!["name"], "NameError");
  assert.equal((await run("secret", { context: "other" })).error!["name"], "NameError");
  assert.equal((await run("secret", { context_id: id })).results[0]!.text, "7");
  const listed = (await ask("GET", "/contexts")).events[0] as unknown as { id: string }[];
  assert.deepEqual(listed.map((one) => one.id).sort(), [id, "python:default", "python:other"].sort());
  assert.equal((await ask("POST", `/contexts/${id}/restart`)).status, 204);
  assert.equal((await run("secret", { context_id: id })).error!["name"], "NameError");
  assert.equal((await ask("DELETE", `/contexts/${id}`)).status, 204);
  assert.equal((await ask("POST", "/execute", { code: "1", context_id: id })).status, 404);
  assert.equal((await ask("POST", "/contexts", { cwd: "/no/such" })).status, 400);
});

test("JavaScript and TypeScript share a context; await, errors and displays work", async (t) => {
  const { run } = await interpreter(t);
  const language = "javascript";
  await run("const n = 20; let text = 'a'", { language });
  const { results, stdout, stderr } = await run("console.log('out'); console.error('err'); n * 2 + 2", {
    language,
  });
  assert.deepEqual([results[0]!.text, stdout, stderr], ["42", "out\n", "err\n"]);
  const typed = "interface Room { name: string }\nconst room: Room = { name: 'r' }; room";
  assert.deepEqual((await run(typed, { language: "typescript" })).results[0]!["json"], { name: "r" });
  assert.equal(
    (await run("const { sep } = await import('node:path'); sep", { language })).results[0]!.text,
    "/",
  );
  assert.equal((await run("room.name + n", { language: "ts" })).results[0]!.text, "r20");
  const { error } = await run("null.x", { language });
  assert.equal(error!["name"], "TypeError");
  assert.match(String(error!["traceback"]), /^TypeError: [^\n]*\n {4}at cell-\d+:1:6$/);
  assert.equal((await run("let 1x", { language })).error!["name"], "SyntaxError");
  const circle = "const c = {}; c.c = c; display([1, 2]); c";
  const shown = (await run(circle, { language })).results;
  assert.deepEqual([shown[0]!["json"], shown[1]!["json"]], [[1, 2], undefined]);
});

test("bash keeps its variables and folder; a language that is not offered is named", async (t) => {
  const { ask, run } = await interpreter(t);
  await run("cd /tmp; COLOUR=green", { language: "bash" });
  assert.equal(
    (await run(`echo "$COLOUR in $PWD, $ONE"`, { language: "bash", env_vars: { ONE: "it's" } })).stdout,
    "green in /tmp, it's\n",
  );
  const { status, events } = await ask("POST", "/execute", { code: "1", language: "cobol" });
  assert.equal(status, 400);
  assert.match(JSON.stringify(events), /"cobol\\" is not offered[^"]*python/);
  assert.equal((await ask("POST", "/execute", { code: 5 })).status, 400);
  assert.equal((await ask("GET", "/nothing")).status, 404);
});
