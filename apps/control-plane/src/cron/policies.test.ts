import assert from "node:assert/strict";
import { test } from "node:test";
import { waitFor } from "@platform/daemon";
import { createPool, query } from "@platform/postgres";
import { startPrograms } from "../testing-programs.ts";
import { decideDue } from "./due.ts";
import { nextRun } from "./schedule.ts";
import type { CronJobRow } from "./store.ts";

function occurrences(schedule: string, zone: string, after: string, count: number): string[] {
  const found: string[] = [];
  for (let at = new Date(after); found.length < count;) {
    at = nextRun(schedule, zone, at);
    found.push(at.toISOString().slice(0, 16));
  }
  return found;
}

test("New York: an hour that is skipped runs at the shift, one that comes twice runs once", () => {
  assert.deepEqual(occurrences("30 2 * * *", "America/New_York", "2026-03-07T12:00:00Z", 2), [
    "2026-03-08T07:00",
    "2026-03-09T06:30",
  ]);
  assert.deepEqual(occurrences("30 1 * * *", "America/New_York", "2026-10-31T12:00:00Z", 2), [
    "2026-11-01T05:30",
    "2026-11-02T06:30",
  ]);
  assert.deepEqual(occurrences("*/30 * * * *", "America/New_York", "2026-11-01T04:45:00Z", 4), [
    "2026-11-01T05:00",
    "2026-11-01T05:30",
    "2026-11-01T06:00",
    "2026-11-01T06:30",
  ]);
});

test("Lord Howe: half an hour is skipped and repeated", () => {
  assert.deepEqual(occurrences("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", 2), [
    "2026-10-03T15:30",
    "2026-10-04T15:15",
  ]);
  assert.deepEqual(occurrences("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00:00Z", 2), [
    "2026-04-04T14:45",
    "2026-04-05T15:15",
  ]);
});

test("Dublin: where winter is the time that is saved", () => {
  assert.deepEqual(occurrences("30 1 * * *", "Europe/Dublin", "2026-03-28T12:00:00Z", 2), [
    "2026-03-29T01:00",
    "2026-03-30T00:30",
  ]);
  assert.deepEqual(occurrences("30 1 * * *", "Europe/Dublin", "2026-10-24T12:00:00Z", 2), [
    "2026-10-25T00:30",
    "2026-10-26T01:30",
  ]);
});

const job = (fields: Partial<CronJobRow>) =>
  ({
    ...{ schedule: "* * * * *", timezone: "UTC", missed_policy: "skip", missed_limit: 10 },
    next_run_at: new Date("2026-01-01T00:00:00Z"),
    ...fields,
  }) as CronJobRow;
const times = (dates: readonly Date[]) => dates.map((date) => date.toISOString().slice(11, 16));

test("what was missed is recorded, run once or made up for, as the job says", () => {
  const now = new Date("2026-01-01T00:05:20Z");
  const skip = decideDue(job({}), now);
  assert.deepEqual(times(skip.run), ["00:05"]);
  assert.deepEqual(times(skip.missed), ["00:00", "00:01", "00:02", "00:03", "00:04"]);
  assert.equal(skip.next?.toISOString(), "2026-01-01T00:06:00.000Z");
  const once = decideDue(job({ missed_policy: "once", schedule: "0 * * * *" }), now);
  assert.deepEqual(times(once.run), ["00:00"]);
  const onTimeStands = decideDue(job({ missed_policy: "once" }), now);
  assert.deepEqual(times(onTimeStands.run), ["00:05"]);
  const all = decideDue(job({ missed_policy: "all", missed_limit: 3 }), now);
  assert.deepEqual(times(all.run), ["00:02", "00:03", "00:04", "00:05"]);
  assert.deepEqual(times(all.missed), ["00:00", "00:01"]);
});

test("an absence of months costs a bounded look, and its newest occurrences are the ones that count", () => {
  const due = decideDue(job({ missed_policy: "all", missed_limit: 2 }), new Date("2026-06-01T12:00:30Z"));
  assert.equal(due.missed.length, 20);
  assert.deepEqual(times(due.run), ["11:58", "11:59", "12:00"]);
  assert.equal(due.hasUnrecorded, true);
  assert.equal(due.next?.toISOString(), "2026-06-01T12:01:00.000Z");
  const yearly = decideDue(
    job({ schedule: "0 0 1 1 *", missed_policy: "all" }),
    new Date("2031-06-01T00:00:00Z"),
  );
  assert.equal(yearly.run.length, 6);
  assert.equal(yearly.hasUnrecorded, false);
});

test("what happens to an occurrence while a run is on", async (t) => {
  const platform = await startPrograms(t);
  await platform.startControlPlane();
  const { api } = platform;
  const pool = createPool(platform.databaseUrl);
  t.after(() => pool.end());
  // Without a host a sandbox never starts, so a run that needs it goes on waiting.
  const sandbox = await api("POST", "/sandboxes", { name: "never-up" });
  assert.ok(sandbox.status < 300, sandbox.text);
  const make = async (fields: Record<string, unknown>) => {
    const made = await api("POST", "/cron-jobs", {
      ...{ name: "job", schedule: "0 0 1 1 *", command: "true", computer_id: "never-up" },
      ...fields,
    });
    assert.equal(made.status, 201, made.text);
    return made.at("data", "id");
  };
  const executions = async (id: string) =>
    (await api("GET", `/cron-jobs/${id}/executions?limit=200`))
      .at<Record<string, string>[]>("data")
      .reverse();
  const occur = (id: string, secondsAgo: number) =>
    pool.query(
      "update cron_jobs set next_run_at = date_trunc('second', now()) - $2 * interval '1 second' where id = $1",
      [id, secondsAgo],
    );
  const states = async (id: string) => (await executions(id)).map((one) => one["reason"] ?? one["state"]);
  const become = (what: string, id: string, wanted: string[]) =>
    waitFor(what, async () => JSON.stringify(await states(id)) === JSON.stringify(wanted), 60_000, 100);

  await t.test("queue: it waits for its turn, and no second run begins", async () => {
    const id = await make({ overlap_policy: "queue" });
    await api("POST", `/cron-jobs/${id}/run-now`, {});
    await become("the first run", id, ["running"]);
    await occur(id, 5);
    await become("the second to wait", id, ["running", "pending"]);
    await occur(id, 3);
    await become("the third to wait", id, ["running", "pending", "pending"]);
    const count = await query<{ n: number }>(
      pool,
      "select count(*)::int as n from cron_executions where cron_job_id = $1 and state = 'running'",
      [id],
    );
    assert.equal(count[0]!.n, 1);
    await pool.query(
      "update cron_executions set state = 'failed', reason = 'test' where cron_job_id = $1 and state = 'running'",
      [id],
    );
    await become("the second to run", id, ["test", "running", "pending"]);
    await api("DELETE", `/cron-jobs/${id}`);
  });

  await t.test("replace: the run is ended first, then the new one begins", async () => {
    const id = await make({ overlap_policy: "replace" });
    await api("POST", `/cron-jobs/${id}/run-now`, {});
    await become("the first run", id, ["running"]);
    await occur(id, 5);
    await become("the change", id, ["replaced", "running"]);
    const [first, second] = await executions(id);
    assert.ok(Date.parse(first!["finished_at"]!) <= Date.parse(second!["started_at"]!));
    await api("DELETE", `/cron-jobs/${id}`);
  });

  await t.test("allow: both run", async () => {
    const id = await make({ overlap_policy: "allow" });
    await api("POST", `/cron-jobs/${id}/run-now`, {});
    await become("the first run", id, ["running"]);
    await occur(id, 5);
    await become("both", id, ["running", "running"]);
    await api("DELETE", `/cron-jobs/${id}`);
  });

  await t.test("a failure is tried again only as often as asked, and each try is kept", async () => {
    const deployment = (await api("POST", "/deployments", { name: "app" })).at("data", "id");
    const fields = { computer_id: deployment, max_retries: 2, retry_delay_sec: 1 };
    const id = await make(fields);
    await api("POST", `/cron-jobs/${id}/run-now`, {}, { "idempotency-key": "retry" });
    await become("its end", id, ["not_serving"]);
    await waitFor(
      "the last try",
      async () => (await states(id))[0] === "not_serving" && (await executions(id))[0]!["state"] === "failed",
      60_000,
      100,
    );
    const [only] = await executions(id);
    assert.equal(only!["attempt"], 3);
    assert.deepEqual(
      (only!["attempts"] as unknown as { attempt: number; reason: string }[]).map(({ attempt, reason }) => [
        attempt,
        reason,
      ]),
      [
        [1, "not_serving"],
        [2, "not_serving"],
      ],
    );
    const once = await make({ computer_id: deployment });
    await api("POST", `/cron-jobs/${once}/run-now`, {});
    await waitFor("its end", async () => (await executions(once))[0]?.["state"] === "failed", 30_000, 100);
    assert.equal((await executions(once))[0]!["attempt"], 1);
  });

  await t.test("a job is a command or a request, and says which field is wrong", async () => {
    const deployment = (await api("POST", "/deployments", { name: "http" })).at("data", "id");
    const post = (fields: Record<string, unknown>) =>
      api("POST", "/cron-jobs", { name: "h", schedule: "0 0 1 1 *", computer_id: deployment, ...fields });
    assert.ok((await post({})).at("errors", "command", 0));
    assert.ok((await post({ command: "x", http: { path: "/" } })).at("errors", "http", 0));
    assert.equal((await post({ http: { path: "tasks" } })).status, 422);
    const onSandbox = await post({ http: { path: "/" }, computer_id: "never-up" });
    assert.ok(onSandbox.at("errors", "http", 0), onSandbox.text);
    const made = await post({
      http: { path: "/tasks?key=s3cr3t", headers: { authorization: "Bearer hidden" } },
    });
    assert.equal(made.at("data", "command"), "POST /tasks");
    assert.doesNotMatch(made.text, /s3cr3t|hidden/);
    const id = made.at("data", "id");
    await api("POST", `/cron-jobs/${id}/run-now`, {});
    await waitFor("its end", async () => (await executions(id))[0]?.["state"] === "failed", 30_000, 100);
    assert.equal((await executions(id))[0]!["reason"], "not_serving");
    const rows = await query<{ text: string }>(pool, "select cron_jobs::text as text from cron_jobs");
    assert.doesNotMatch(JSON.stringify(rows), /s3cr3t|hidden/);
  });
});
