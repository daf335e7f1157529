import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Code, ConnectError } from "@connectrpc/connect";
import { waitFor } from "@platform/daemon";
import { Signal, type GuestClient } from "@platform/guest-protocol";
import { startAgent } from "../test-agent.ts";

/** A process counts as gone also while its parent has not collected it. */
function isGone(pid: number): boolean {
  try {
    return /^\S+ \(.*\) Z/s.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch {
    return true;
  }
}

const selector = (pid: number) => ({ selector: { case: "pid" as const, value: pid } });

/** Starts a command and gives its pid and the rest of its events. */
async function start(client: GuestClient, script: string, more: { pty?: boolean; tag?: string } = {}) {
  const events = client.process
    .start({
      process: { cmd: "/bin/sh", args: ["-c", script] },
      tag: more.tag,
      pty: more.pty ? { size: { cols: 80, rows: 24 } } : undefined,
    })
    [Symbol.asyncIterator]();
  const first = (await events.next()).value?.event?.event;
  assert.equal(first?.case, "start");
  return { pid: first.case === "start" ? first.value.pid : 0, events };
}

async function readUntil(events: Awaited<ReturnType<typeof start>>["events"], wanted: RegExp) {
  let text = "";
  for (;;) {
    const { value, done } = await events.next();
    if (done) return text;
    const event = value.event?.event;
    if (event?.case === "data") text += Buffer.from(event.value.output.value ?? []).toString();
    if (wanted.test(text)) return text;
  }
}

test("a command gives its outputs, its exit code and nothing of the agent's environment", async (t) => {
  const { client, workdir } = await startAgent(t, { env: { COLOUR: "green" }, proxyPort: null });
  const result = await client.exec("echo out; echo err >&2; pwd; env | cut -d= -f1 | sort | xargs; exit 7", {
    env: { EXTRA: "1" },
  });
  assert.equal(result.stdout, `out\n${workdir}\nCOLOUR EXTRA HOME LANG LOGNAME PATH PWD SHELL USER\n`);
  assert.equal(result.stderr, "err\n");
  assert.equal(result.exitCode, 7);
  assert.equal(result.timedOut, false);
});

test("twenty megabytes arrive whole and before the end, and the limit truncates", async (t) => {
  const { client } = await startAgent(t);
  const script = "head -c 20000000 /dev/zero | tr '\\0' a; printf Z";
  const whole = await client.exec(script, { maxOutputBytes: 30_000_000 });
  assert.equal(whole.stdout.length, 20_000_001);
  assert.ok(whole.stdout.endsWith("Z"));
  const cut = await client.exec(script, { maxOutputBytes: 1000 });
  assert.equal(cut.stdout.length, 1000);
  assert.equal(cut.stdoutTruncated, true);
  assert.equal(cut.exitCode, 0);
});

test("bad bytes are replaced and characters may span chunks", async (t) => {
  const { client } = await startAgent(t);
  const input = "ä€😀".repeat(100_000);
  const result = await client.exec("cat; printf '\\377'", { stdin: input });
  assert.ok(result.stdout === `${input}\u{fffd}`);
});

test("input is written to the command and then ends; without input it is empty", async (t) => {
  const { client } = await startAgent(t);
  assert.equal((await client.exec("cat; echo end", { stdin: "some text " })).stdout, "some text end\n");
  assert.equal((await client.exec("cat; echo end")).stdout, "end\n");
  assert.equal((await client.exec("true", { stdin: "x".repeat(1_000_000) })).exitCode, 0);
});

test("a time-out kills the whole process group", async (t) => {
  const { client } = await startAgent(t);
  const result = await client.exec("sleep 600 & echo $!; sleep 600", { timeoutMs: 300 });
  assert.equal(result.timedOut, true);
  assert.equal(result.exitCode, -1);
  await waitFor("the grandchild's end", () => isGone(Number(result.stdout)), 5000);
});

test("aborting a command rejects and kills it", async (t) => {
  const { client } = await startAgent(t);
  const abort = new AbortController();
  let pid = 0;
  const call = client.exec("echo $$; sleep 600", {
    signal: abort.signal,
    onStdout: (text) => {
      pid = Number(text);
      abort.abort();
    },
  });
  await assert.rejects(call);
  await waitFor("the command's end", () => isGone(pid), 5000);
});

test("a command ends although a child of it keeps its output open", async (t) => {
  const { client } = await startAgent(t);
  const result = await client.exec("sleep 600 & echo $!");
  t.after(() => process.kill(Number(result.stdout), "SIGKILL"));
  assert.equal(result.exitCode, 0);
  assert.equal(isGone(Number(result.stdout)), false);
});

test("a shell may write to /dev/stderr and /dev/stdout", async (t) => {
  const { client } = await startAgent(t);
  const result = await client.exec("echo one > /dev/stdout; echo two > /dev/stderr");
  assert.deepEqual([result.stdout, result.stderr, result.exitCode], ["one\n", "two\n", 0]);
});

test("a signal's end is reported in the words of the protocol", async (t) => {
  const { client } = await startAgent(t);
  const { pid, events } = await start(client, "sleep 600");
  await client.process.sendSignal({ process: selector(pid), signal: Signal.SIGKILL });
  const end = (await events.next()).value?.event?.event;
  assert.ok(end?.case === "end");
  assert.deepEqual(
    [end.value.exitCode, end.value.exited, end.value.status, end.value.error],
    [-1, false, "signal: killed", "signal: killed"],
  );
});

test("a program outlives the stream that started it and can be attached to by its tag", async (t) => {
  const { client } = await startAgent(t);
  const { pid, events } = await start(client, "read line; echo got $line", { tag: "job" });
  await events.return?.();
  const { processes } = await client.process.list({});
  assert.deepEqual(
    processes.map((entry) => [entry.pid, entry.tag]),
    [[pid, "job"]],
  );
  const attached = client.process.connect({ process: { selector: { case: "tag", value: "job" } } });
  const seen: string[] = [];
  for await (const { event } of attached) {
    seen.push(event?.event.case ?? "");
    if (event?.event.case === "start") {
      await client.process.sendInput({
        process: selector(pid),
        input: { input: { case: "stdin", value: Buffer.from("word\n") } },
      });
    }
  }
  assert.deepEqual(seen, ["start", "data", "end"]);
  await assert.rejects(
    client.process.sendSignal({ process: selector(pid), signal: Signal.SIGTERM }),
    (error) => error instanceof ConnectError && error.code === Code.NotFound,
  );
});

test("a terminal echoes, knows its size and is resized", async (t) => {
  const { client } = await startAgent(t);
  const { pid, events } = await start(client, "stty size; read line; stty size; echo got=$line", {
    pty: true,
  });
  await readUntil(events, /24 80/);
  await client.process.update({ process: selector(pid), pty: { size: { cols: 132, rows: 50 } } });
  await client.process.sendInput({
    process: selector(pid),
    input: { input: { case: "pty", value: Buffer.from("word\n") } },
  });
  const rest = await readUntil(events, /never/);
  assert.match(rest, /word\r\n50 132\r\ngot=word/);
});

test("what cannot start says why", async (t) => {
  const { client } = await startAgent(t);
  const missing = client.process.start({ process: { cmd: "no-such-program" } })[Symbol.asyncIterator]();
  await assert.rejects(missing.next(), /executable file not found in \$PATH/);
  await assert.rejects(
    client.exec("true", { cwd: "/no/such/folder" }),
    /cwd '\/no\/such\/folder' does not exist/,
  );
});

test("a silent stream carries signs of life at the interval asked for", async (t) => {
  const { client } = await startAgent(t);
  const headers = { "keepalive-ping-interval": "0.05" };
  const cmd = { cmd: "/bin/sh", args: ["-c", "read line"] };
  for await (const { event } of client.process.start({ process: cmd }, { headers })) {
    if (event?.event.case === "keepalive") break;
    assert.equal(event?.event.case, "start");
  }
});
