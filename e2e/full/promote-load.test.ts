import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import test, { type TestContext } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { openEvents, openWebSocket, type LongLived } from "./long-lived.ts";
import { startOwnPlatform, type OwnPlatform } from "./own-platform.ts";
import { runSteadyLoad, type Sample, type Target } from "./steady-load.ts";

const total = Number(process.env["LOAD_REQUESTS"] ?? 50_000);
/** Beyond the slow bodies' own 1.8 s; such requests are listed by the second in which they began. */
const slowMs = 2_500;
const perSecond = Number(process.env["LOAD_RATE"] ?? 300);

interface App {
  readonly target: Target;
  readonly deploymentId: string;
  /** In the order of publication. */
  readonly releases: readonly { name: string; releaseId: string; versionId: string }[];
  /** What was pointed at and when the call began and ended, wall clock, milliseconds. */
  readonly pointers: { name: string; from: number; to: number }[];
  /** Beside what is pointed at: a canary until its verdict or its end, a release on trial until its verdict. */
  readonly windows: { name: string; from: number; to: number }[];
}

/** Begins with the third release in service. `rollback` goes to the one before, `to N` to any earlier one. */
const plan = [
  "rollback",
  "promote 3",
  "rollback",
  "promote 3",
  "rollback to 1",
  "promote 3",
  "rollback",
  "promote 3",
  "rollback to 1",
  "promote 2",
];

async function publishApp(platform: OwnPlatform, kind: "dynamic" | "static"): Promise<App> {
  const server = readFileSync(join(import.meta.dirname, "releases", "behaving.mjs"), "utf8");
  const sandboxId = await platform.sandbox(
    `load-${kind}`,
    kind === "dynamic" ? { "/workspace/server.mjs": server } : {},
  );
  const file = kind === "dynamic" ? "release.json" : "index.html";
  const releases: App["releases"][number][] = [];
  let deploymentId: string | null = null;
  let url = "";
  const behaviours = ["good", "good", "good", ...(kind === "dynamic" ? ["broken", "crashing"] : [])];
  for (const [index, behaviour] of behaviours.entries()) {
    const name = `${kind}-${index + 1}`;
    const content = kind === "dynamic" ? JSON.stringify({ name, behaviour }) : name;
    await platform.exec(sandboxId, `printf %s '${content}' > /workspace/${file}`);
    const published = await platform.must("POST", `/sandboxes/${sandboxId}/publish`, {
      ...(deploymentId ? { deployment_id: deploymentId } : { name: `load-${kind}` }),
      deployment_type: kind,
      install_command: false,
      ...(kind === "dynamic"
        ? { run_command: "node server.mjs", port: 3000, health_check_path: "/healthz" }
        : {}),
      promote: behaviour === "good",
    });
    const [deployment, release] = [published["deployment"], published["release"]] as Record<string, string>[];
    deploymentId = deployment!["id"]!;
    url = deployment!["public_url"]!;
    releases.push({ name, releaseId: release!["id"]!, versionId: release!["deployment_version_id"]! });
  }
  const target: Target = {
    name: kind,
    host: new URL(url).host,
    path: "/",
    takesBodies: kind === "dynamic",
    releaseOf: (text) =>
      kind === "dynamic" ? (JSON.parse(text) as { release: string }).release : text.trim(),
  };
  return {
    target,
    deploymentId: deploymentId!,
    releases,
    pointers: [{ name: `${kind}-3`, from: 0, to: Date.now() }],
    windows: [],
  };
}

/** Carries out one step of the plan and notes what serves since. @returns milliseconds */
async function move(platform: OwnPlatform, app: App, step: string): Promise<number> {
  const number = /\d/.exec(step)?.[0];
  const release = app.releases.find(({ name }) => name.endsWith(`-${number}`));
  const from = Date.now();
  const path = `/deployments/${app.deploymentId}`;
  const deployment = step.startsWith("promote")
    ? await platform.must("POST", `${path}/releases/${release!.releaseId}/promote`, {})
    : await platform.must("POST", `${path}/rollback`, release ? { version_id: release.versionId } : {});
  const to = Date.now();
  const active = app.releases.find(({ releaseId }) => releaseId === deployment["active_release_id"])!;
  app.pointers.push({ name: active.name, from, to });
  return to - from;
}

/** A release may answer from the call that points at it until the next call has ended. */
function wasActive(app: App, sample: Sample): boolean {
  const isPointedAt = app.pointers.some(({ name, from }, index) => {
    const until = app.pointers[index + 1]?.to ?? Infinity;
    return name === sample.release && sample.to >= from && sample.from <= until;
  });
  return (
    isPointedAt ||
    app.windows.some(
      ({ name, from, to }) => name === sample.release && sample.to >= from && sample.from <= to,
    )
  );
}

type Promotion = Record<string, unknown>;
const verdictMs = 90_000;

async function promotionThat(
  platform: OwnPlatform,
  app: App,
  is: (promotion: Promotion) => boolean,
): Promise<Promotion> {
  for (const endsAt = Date.now() + verdictMs; ;) {
    const all = await platform.must("GET", `/deployments/${app.deploymentId}/promotions`);
    const found = (all as unknown as Promotion[]).find(is);
    if (found) return found;
    assert.ok(Date.now() < endsAt, `no such promotion: ${JSON.stringify(all).slice(0, 2000)}`);
    await delay(100);
  }
}

const timeOf = (promotion: Promotion) => Date.parse(String(promotion["finished_at"]));

/** A canary that fails, one that succeeds, and a release that crashes again and again once it has all traffic. */
async function badAndGood(t: TestContext, platform: OwnPlatform, app: App): Promise<void> {
  const [first, , , broken, crashing] = app.releases as [App["releases"][number], ...App["releases"]];
  const promote = (releaseId: string, body: object) =>
    platform.must("POST", `/deployments/${app.deploymentId}/releases/${releaseId}/promote`, body);
  const canary = { step_sec: 4, sticky: "request", min_errors: 3 };
  let from = Date.now();
  await promote(broken!.releaseId, { canary: { ...canary, steps: [20], step_sec: 600 } });
  const failed = await promotionThat(
    platform,
    app,
    (one) => one["release_id"] === broken!.releaseId && one["state"] === "failed",
  );
  assert.equal((failed["error"] as { code: string }).code, "CANARY_FAILED");
  app.windows.push({ name: broken!.name, from, to: timeOf(failed) });
  t.diagnostic(`broken canary: verdict after ${timeOf(failed) - from} ms`);
  from = Date.now();
  await promote(first.releaseId, { canary: { ...canary, steps: [10, 50] } });
  const done = await promotionThat(
    platform,
    app,
    (one) =>
      one["release_id"] === first.releaseId &&
      one["canary"] !== null &&
      !["running", "queued"].includes(String(one["state"])),
  );
  assert.equal(done["state"], "succeeded", JSON.stringify(done));
  app.pointers.push({ name: first.name, from, to: timeOf(done) });
  t.diagnostic(`canary of 10 and 50 %: all traffic after ${timeOf(done) - from} ms`);
  from = Date.now();
  await promote(crashing!.releaseId, {});
  const returned = await promotionThat(platform, app, (one) => one["kind"] === "return");
  app.windows.push({ name: crashing!.name, from, to: timeOf(returned) });
  t.diagnostic(`crash loop: traffic returned and verdict after ${timeOf(returned) - from} ms`);
}

/** Connections opened before each move, asked right after it and again some seconds later. */
class Survivors {
  readonly #platform: OwnPlatform;
  readonly #host: string;
  readonly #open: LongLived[] = [];
  readonly tally = { opened: 0, afterSwitch: 0, later: 0 };

  constructor(platform: OwnPlatform, host: string) {
    this.#platform = platform;
    this.#host = host;
  }

  async open(): Promise<void> {
    const { edgePort } = this.#platform;
    this.#open.push(
      await openWebSocket(edgePort, this.#host),
      await openWebSocket(edgePort, this.#host),
      await openEvents(edgePort, this.#host),
    );
    this.tally.opened += 3;
  }

  async count(when: "afterSwitch" | "later"): Promise<void> {
    for (const answered of await Promise.all(this.#open.map((one) => one.answers())))
      if (answered) this.tally[when]++;
  }

  /** @returns milliseconds from `since` until the last of them ended */
  async ended(since: number): Promise<number> {
    for (const one of this.#open) while (await one.answers()) await delay(250);
    return Date.now() - since;
  }

  closeAll(): void {
    for (const one of this.#open.splice(0)) one.close();
  }
}

/** New settings mean a new instance of the same release; the old one drains, then goes with what is still open. */
async function changeSettings(platform: OwnPlatform, app: App, survivors: Survivors): Promise<string> {
  await survivors.open();
  await platform.must("POST", `/deployments/${app.deploymentId}/env`, { env: { LOAD_MARK: "changed" } });
  const isNew = async () => (await platform.visit(`http://${app.target.host}/`)).text.includes('"changed"');
  for (let tries = 0; !(await isNew()); tries++) {
    assert.ok(tries < 600, "the new settings never came into force");
    await delay(100);
  }
  const switchedAt = Date.now();
  await survivors.count("afterSwitch");
  await survivors.count("later");
  const livedMs = await survivors.ended(switchedAt);
  return `new settings: connections to the old instance lived ${Math.round(livedMs / 1000)} s after the switch`;
}

function report(t: TestContext, samples: readonly Sample[], startedAt: number): void {
  const took = samples.map(({ from, to }) => to - from).sort((a, b) => a - b);
  const at = (part: number) => took[Math.min(took.length - 1, Math.floor(took.length * part))];
  const seconds = (Date.now() - startedAt) / 1000;
  t.diagnostic(
    `${samples.length} requests in ${seconds.toFixed(1)} s (${Math.round(samples.length / seconds)}/s): P50 ${at(0.5)} ms, P95 ${at(0.95)} ms, P99 ${at(0.99)} ms, slowest ${took.at(-1)} ms`,
  );
  const slow = samples.filter(({ from, to }) => to - from > slowMs);
  const bySecond = Map.groupBy(slow, ({ from }) => Math.floor((from - startedAt) / 1000));
  for (const [second, ones] of [...bySecond].sort(([a], [b]) => a - b))
    t.diagnostic(
      `+${second} s: ${ones.length} took longer than ${slowMs} ms, at most ${Math.max(...ones.map(({ from, to }) => to - from))} ms, answered by ${[...new Set(ones.map(({ release }) => release ?? "nobody"))].join(", ")}`,
    );
  const kinds = new Map<string, number>();
  for (const { target, kind, release } of samples) {
    const key = `${target} ${kind} ${release ?? "FAILED"}`;
    kinds.set(key, (kinds.get(key) ?? 0) + 1);
  }
  for (const [key, count] of [...kinds].sort()) t.diagnostic(`${String(count).padStart(6)}  ${key}`);
}

test("50,000 requests across promotes, rollbacks, canaries, a bad release and a crash loop: 0 failed", async (t) => {
  const platform = await startOwnPlatform();
  t.after(() => platform.stop());
  const apps = [await publishApp(platform, "dynamic"), await publishApp(platform, "static")];
  const [dynamic] = apps as [App];
  const survivors = new Survivors(platform, dynamic.target.host);
  t.after(() => survivors.closeAll());
  const startedAt = Date.now();
  const everyMs = (total / perSecond / (plan.length + 12)) * 1000;
  const load = runSteadyLoad({
    edgePort: platform.edgePort,
    total,
    perSecond,
    // Three of four requests go to the app with processes, where more can go wrong.
    targets: [dynamic.target, dynamic.target, dynamic.target, apps[1]!.target],
  });
  // The load is awaited last; a move that fails must not leave it as an unhandled rejection.
  load.catch(() => undefined);
  for (const [index, step] of plan.entries()) {
    await delay(Math.max(0, startedAt + everyMs * (index + 1) - Date.now()));
    await survivors.open();
    const took = await Promise.all(apps.map((app) => move(platform, app, step)));
    t.diagnostic(`${step}: dynamic ${took[0]} ms, static ${took[1]} ms`);
    await survivors.count("afterSwitch");
    // Half of the drain time: whatever was open must still be served.
    await delay(Math.min(7_000, everyMs / 3));
    await survivors.count("later");
    survivors.closeAll();
  }
  await badAndGood(t, platform, dynamic);
  t.diagnostic(await changeSettings(platform, dynamic, survivors));
  const samples = await load;
  report(t, samples, startedAt);
  const { opened, afterSwitch, later } = survivors.tally;
  t.diagnostic(
    `long-lived connections: ${opened} opened before a switch, ${afterSwitch} answered after it, ${later} later`,
  );

  const failures = samples.filter(({ failure }) => failure !== null);
  assert.deepEqual(
    failures
      .slice(0, 20)
      .map((one) => `${one.target} ${one.kind} +${one.from - startedAt} ms: ${one.failure}`),
    [],
    `${failures.length} of ${samples.length} requests failed`,
  );
  const stale = samples.filter(
    (one) =>
      !wasActive(
        apps.find(({ target }) => target.name === one.target)!,
        one,
      ),
  );
  assert.deepEqual(
    stale.slice(0, 20),
    [],
    `${stale.length} answers came from a release that did not serve then`,
  );
  assert.equal(samples.length, total);
  assert.deepEqual({ afterSwitch, later }, { afterSwitch: opened, later: opened });
});
