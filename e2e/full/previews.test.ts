import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import test from "node:test";
import { Agent, request } from "undici";
import { startOwnPlatform, type OwnPlatform } from "./own-platform.ts";

const starts = Number(process.env["PREVIEW_STARTS"] ?? 1000);
const inFlight = 8;
const folder = join(import.meta.dirname, "faulty-servers");

/**
 * What each kind of server must come to. `url`: always a URL. `either`: a URL only if the server
 * outlived its last proof. Otherwise the one reason that is right.
 */
const faults = {
  good: { weight: 3, outcome: "url", waitMs: 15_000 },
  late: { weight: 4, outcome: "url", waitMs: 15_000 },
  slow: { weight: 1, outcome: "url", waitMs: 15_000 },
  "accepts-upgrade": { weight: 2, outcome: "url", waitMs: 15_000 },
  "loopback-4": { weight: 2, outcome: "bound_to_loopback", waitMs: 15_000 },
  "loopback-6": { weight: 2, outcome: "bound_to_loopback", waitMs: 15_000 },
  never: { weight: 2, outcome: "not_listening", waitMs: 300 },
  silent: { weight: 1, outcome: "no_http_answer", waitMs: 1_500 },
  garbage: { weight: 1, outcome: "no_http_answer", waitMs: 15_000 },
  "hangs-up": { weight: 1, outcome: "no_http_answer", waitMs: 1_500 },
  "error-500": { weight: 2, outcome: "http_error", waitMs: 15_000 },
  "closes-upgrade": { weight: 1, outcome: "url", waitMs: 15_000 },
  "crash-at-listen": { weight: 2, outcome: "either", waitMs: 1_000 },
  "crash-after-ms": { weight: 2, outcome: "either", waitMs: 2_000 },
  "crash-after-answer-1": { weight: 2, outcome: "either", waitMs: 15_000 },
  "crash-after-answer-2": { weight: 1, outcome: "either", waitMs: 15_000 },
  "crash-after-answer-3": { weight: 1, outcome: "either", waitMs: 15_000 },
  "crash-after-answer-4": { weight: 1, outcome: "either", waitMs: 15_000 },
} as const;
type Fault = keyof typeof faults;

const crashReasons = new Set(["not_listening", "process_exited"]);

/** Reproducible numbers from 0 to 1 (mulberry32). */
function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

interface Start {
  readonly port: number;
  readonly fault: Fault;
  readonly delayMs: number;
}

function planStarts(seed: number): Start[] {
  const random = randomFrom(seed);
  const wheel = (Object.keys(faults) as Fault[]).flatMap((fault) =>
    Array<Fault>(faults[fault].weight).fill(fault),
  );
  return Array.from({ length: starts }, (_, index) => {
    const fault = wheel[Math.floor(random() * wheel.length)]!;
    const delays: Partial<Record<Fault, [number, number]>> = {
      late: [50, 1500],
      slow: [300, 900],
      "crash-after-ms": [0, 400],
    };
    const [from, to] = delays[fault] ?? [0, 0];
    return { port: 10_000 + index, fault, delayMs: Math.round(from + random() * (to - from)) };
  });
}

interface Launcher {
  readonly sandboxId: string;
  call(action: "start" | "stop" | "ended", body: object): Promise<Record<string, unknown>>;
}

async function startLauncher(platform: OwnPlatform, name: string): Promise<Launcher> {
  const files = Object.fromEntries(
    ["server.mjs", "launcher.mjs"].map((file) => [
      `/workspace/${file}`,
      readFileSync(join(folder, file), "utf8"),
    ]),
  );
  const sandboxId = await platform.sandbox(name, files);
  await platform.exec(sandboxId, "nohup node /workspace/launcher.mjs >/tmp/launcher.log 2>&1 &");
  const exposed = await platform.must("POST", `/sandboxes/${sandboxId}/expose`, { port: 4000 });
  const { host } = new URL(String(exposed["url"]));
  const dispatcher = new Agent({ connections: inFlight, pipelining: 0 });
  const call: Launcher["call"] = async (action, body) => {
    const response = await request(`http://127.0.0.1:${platform.edgePort}/${action}`, {
      method: "POST",
      headers: { host },
      body: JSON.stringify(body),
      dispatcher,
    });
    const text = await response.body.text();
    assert.equal(response.statusCode, 200, `the launcher answered: ${text}`);
    return JSON.parse(text) as Record<string, unknown>;
  };
  return { sandboxId, call };
}

interface Tally {
  readonly wrong: string[];
  readonly outcomes: Map<string, number>;
  diedAfterProof: number;
}

/**
 * One start, one expose, one visit. The rule for a URL: at `probe.at` the last proof was still to come,
 * and it passed. So the visit that follows at once may fail only if the server itself recorded its end
 * after that moment; every server that does not crash must be seen, and it must be the right one.
 */
async function tryOne(platform: OwnPlatform, launcher: Launcher, start: Start, tally: Tally): Promise<void> {
  const { port, fault } = start;
  const expected = faults[fault];
  // Where the wait is short, so that the refusal comes soon, the server must be there before it.
  const waitUntilListening = expected.outcome === "no_http_answer";
  await launcher.call("start", { ...start, waitUntilListening });
  const { status, body, ms } = await platform.api("POST", `/sandboxes/${launcher.sandboxId}/expose`, {
    port,
    wait_ms: expected.waitMs,
  });
  const where = `${fault} (port ${port}, delay ${start.delayMs} ms, answered after ${Math.round(ms)} ms)`;
  let outcome: string;
  if (status === 200) {
    outcome = "url";
    const visit = await platform
      .visit(String(body["url"]))
      .catch((error: Error) => ({ status: 0, text: error.message }));
    if (visit.status !== 200 || visit.text !== `port ${port}\n`) {
      const { ended_at: endedAt } = await launcher.call("ended", { port });
      const provedAt = Date.parse((body["probe"] as { at: string }).at);
      if (typeof endedAt === "number" && endedAt >= provedAt) tally.diedAfterProof++;
      else
        tally.wrong.push(`${where}: a URL was handed out, then ${visit.status} ${visit.text.slice(0, 200)}`);
    }
    if (expected.outcome !== "url" && expected.outcome !== "either") tally.wrong.push(`${where}: got a URL`);
  } else {
    const error = (body["error"] ?? {}) as { code?: string; message?: string; details?: { reason?: string } };
    outcome = error.details?.reason ?? `${status} ${JSON.stringify(body)}`;
    const isRight =
      status === 409 &&
      error.code === "PORT_NOT_REACHABLE" &&
      error.message!.includes(String(port)) &&
      (expected.outcome === "either" ? crashReasons.has(outcome) : expected.outcome === outcome);
    if (!isRight) tally.wrong.push(`${where}: ${status} ${JSON.stringify(body)}`);
  }
  const key = `${fault} → ${outcome}`;
  tally.outcomes.set(key, (tally.outcomes.get(key) ?? 0) + 1);
  await launcher.call("stop", { port });
}

test("1,000 preview starts with random faults: no URL handed out that fails, every refusal names its reason", async (t) => {
  const platform = await startOwnPlatform();
  t.after(() => platform.stop());
  const seed = Number(process.env["SEED"] ?? Math.floor(Math.random() * 2 ** 31));
  t.diagnostic(`seed ${seed} (SEED=${seed} repeats the plan)`);
  const launchers = [await startLauncher(platform, "faults-a"), await startLauncher(platform, "faults-b")];
  const plan = planStarts(seed);
  const tally: Tally = { wrong: [], outcomes: new Map(), diedAfterProof: 0 };
  const startedAt = performance.now();
  let next = 0;
  const worker = async (launcher: Launcher) => {
    while (next < plan.length && tally.wrong.length < 20)
      await tryOne(platform, launcher, plan[next++]!, tally);
  };
  await Promise.all(
    Array.from({ length: inFlight }, (_, index) => worker(launchers[index % launchers.length]!)),
  );
  for (const [outcome, count] of [...tally.outcomes].sort())
    t.diagnostic(`${String(count).padStart(4)}  ${outcome}`);
  t.diagnostic(
    `${next} starts in ${Math.round((performance.now() - startedAt) / 1000)} s; ${tally.diedAfterProof} servers died after their last proof`,
  );
  assert.deepEqual(tally.wrong, []);
  assert.equal(next, starts);
});
