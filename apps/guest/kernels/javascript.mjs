// Runs cells of JavaScript and TypeScript in one context that lasts. Requests come as JSON lines on descriptor 4,
// what happens goes out as JSON lines on descriptor 3.
import { createReadStream, writeSync } from "node:fs";
import { stripTypeScriptTypes } from "node:module";
import { createInterface } from "node:readline";
import { Recoverable, start } from "node:repl";
import { PassThrough } from "node:stream";
import { inspect } from "node:util";

function emit(event) {
  let data = Buffer.from(`${JSON.stringify(event)}\n`);
  while (data.length > 0) {
    try {
      data = data.subarray(writeSync(3, data));
    } catch (error) {
      if (error.code !== "EAGAIN") throw error;
    }
  }
}

for (const name of ["stdout", "stderr"]) {
  process[name].write = (chunk, encoding, done) => {
    const text = typeof chunk === "string" ? chunk : Buffer.from(chunk).toString("utf8");
    emit({ type: name, text });
    (typeof encoding === "function" ? encoding : done)?.();
    return true;
  };
}

const output = new PassThrough();
output.resume();
const shell = start({
  ...{ input: new PassThrough(), output, prompt: "", terminal: false, useColors: false },
  ...{ useGlobal: true, breakEvalOnSigint: true, ignoreUndefined: true },
});
const evaluate = shell.eval.bind(shell);
process.on("SIGINT", () => undefined);
/** Refuses the cell that runs; its shell tells a thrown error by its domain, not by its callback. */
let refuse = null;
shell._domain?.removeAllListeners("error").on("error", (error) => (refuse ?? fail)(error));

const isPlain = (value) =>
  Array.isArray(value) ||
  (typeof value === "object" &&
    value !== null &&
    [Object.prototype, null].includes(Object.getPrototypeOf(value)));

function formats(value) {
  const seen = { text: typeof value === "string" ? value : inspect(value) };
  if (!isPlain(value)) return seen;
  try {
    return { ...seen, json: JSON.parse(JSON.stringify(value)) };
  } catch {
    // Something in it goes round in circles, or is no JSON.
    return seen;
  }
}
globalThis.display = (...values) => {
  for (const value of values) emit({ type: "result", is_main_result: false, ...formats(value) });
};

/** The cell's own lines. */
const traceOf = (error) =>
  String(error.stack)
    .split("\n")
    .filter((line) => !/^\s+at .*\(?(?:node:|file:.*\/kernels\/)/.test(line))
    .join("\n");

function fail(thrown) {
  const error = thrown instanceof Recoverable ? thrown.err : thrown;
  const isError = error !== null && typeof error === "object" && "message" in error;
  emit({
    type: "error",
    name: isError ? String(error.name) : "Error",
    value: isError ? String(error.message) : inspect(error),
    traceback: isError ? traceOf(error) : inspect(error),
  });
}
// Of what a cell left running, or of the cell itself.
process.on("uncaughtException", (error) => (refuse ?? fail)(error));
process.on("unhandledRejection", fail);

let count = 0;
emit({ type: "ready" });
for await (const line of createInterface({ input: createReadStream("", { fd: 4 }) })) {
  const { code, env, language } = JSON.parse(line);
  const before = Object.fromEntries(Object.keys(env).map((key) => [key, process.env[key]]));
  Object.assign(process.env, env);
  count += 1;
  try {
    const source = language === "typescript" ? stripTypeScriptTypes(code) : code;
    const { promise, resolve, reject } = Promise.withResolvers();
    refuse = reject;
    evaluate(`${source}\n`, shell.context, `cell-${count}`, (error, value) => {
      if (error) reject(error);
      else resolve({ value });
    });
    const { value } = await promise;
    if (value !== undefined) emit({ type: "result", is_main_result: true, ...formats(value) });
  } catch (error) {
    fail(error);
  }
  refuse = null;
  for (const [key, value] of Object.entries(before)) {
    if (value === undefined) delete process.env[key];
    else process.env[key] = value;
  }
  emit({ type: "number_of_executions", execution_count: count });
  emit({ type: "done" });
}
process.exit(0);
