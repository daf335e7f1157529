import assert from "node:assert/strict";
import { test } from "node:test";
import { waitFor } from "@platform/daemon";
import { createPool, query } from "@platform/postgres";
import { startPrograms } from "../testing-programs.ts";
import { Tail } from "./run.ts";
import { nextRun } from "./schedule.ts";

const next = (schedule: string, zone: string, after: string) =>
  nextRun(schedule, zone, new Date(after)).toISOString();

test("the next occurrence is right where clocks change", () => {
  assert.equal(next("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z"), "2026-03-29T01:00:00.000Z");
  assert.equal(next("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z"), "2026-10-25T00:30:00.000Z");
  assert.equal(next("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30:00Z"), "2026-10-26T01:30:00.000Z");
  assert.equal(
    next("0 9 * * MON-FRI", "America/New_York", "2026-03-06T15:00:00Z"),
    "2026-03-09T13:00:00.000Z",
  );
  assert.equal(next("@hourly", "UTC", "2026-01-01T00:00:00Z"), "2026-01-01T01:00:00.000Z");
});

test("a schedule or zone that is not valid is named", () => {
  for (const bad of ["", "* * * *", "61 * * * *", "* * * * * *", "@never", "0 0 31 2 *"])
    assert.throws(
      () => next(bad, "UTC", "2026-01-01T00:00:00Z"),
      (error: { errors?: object }) => Object.keys(error.errors ?? {}).includes("schedule"),
    );
  assert.throws(
    () => next("* * * * *", "Mars/Base", "2026-01-01T00:00:00Z"),
    (error: { errors?: object }) => Object.keys(error.errors ?? {}).includes("timezone"),
  );
});

test("of a long output the end is kept, cut between characters", () => {
  const tail = new Tail();
  for (let i = 0; i < 50; i++) tail.add("ä".repeat(2_000));
  tail.add("the end");
  const text = tail.end();
  assert.ok(tail.isTruncated);
  assert.ok(Buffer.byteLength(text) <= 64 * 1024);
  assert.ok(text.endsWith("the end"));
  assert.doesNotMatch(text, /\uFFFD/);
});

test("cron jobs on two control planes of one database", async (t) => {
  const platform = await startPrograms(t);
  await platform.startControlPlane();
  const { api } = platform;
  const pool = createPool(platform.databaseUrl);
  t.after(() => pool.end());
  const deployment = await api("POST", "/deployments", { name: "app" });
  assert.ok(deployment.status < 300, deployment.text);
  const target = deployment.at("data", "id");
  const make = (fields: Record<string, unknown>) =>
    api("POST", "/cron-jobs", {
      name: "tick",
      schedule: "* * * * *",
      command: "true",
      computer_id: target,
      ...fields,
    });
  const executions = async (id: string) =>
    (await api("GET", `/cron-jobs/${id}/executions?limit=200`)).at<Record<string, string>[]>("data");
  /** Moves the next occurrence to the whole minute `minutes` from now. */
  const setDue = (id: string, minutes: number) =>
    pool.query(
      "update cron_jobs set next_run_at = date_trunc('minute', now()) + $2 * interval '1 minute' where id = $1",
      [id, minutes],
    );

  await t.test("bad input is a 422 that names the field", async () => {
    const bad = await make({ schedule: "every day" });
    assert.equal(bad.status, 422);
    assert.match(bad.at("errors", "schedule", 0), /five fields/);
    assert.match((await make({ timezone: "Nowhere" })).at("errors", "timezone", 0), /IANA/);
    assert.equal((await make({ computer_id: undefined })).status, 422);
    assert.equal((await make({ computer_id: crypto.randomUUID() })).status, 404);
  });

  await t.test("a job is created once, paused, resumed, changed and deleted", async () => {
    const key = { "idempotency-key": "cron-1" };
    const body = {
      name: "n",
      schedule: "0 4 * * *",
      command: "x",
      computer_id: target,
      env: { A: "secret-value" },
    };
    const [one, two] = [
      await api("POST", "/cron-jobs", body, key),
      await api("POST", "/cron-jobs", body, key),
    ];
    const id = one.at("data", "id");
    assert.equal(two.at("data", "id"), id);
    assert.equal(one.at("data", "deployment_id"), target);
    assert.doesNotMatch(one.text, /secret-value/);
    assert.match(one.at("data", "next_run_at"), /T04:00:00/);
    const paused = await api("POST", `/cron-jobs/${id}/pause`, {});
    assert.deepEqual([paused.at("data", "state"), paused.at("data", "next_run_at")], ["paused", null]);
    assert.equal((await api("GET", "/cron-jobs?state=paused")).at<unknown[]>("data").length, 1);
    const resumed = await api("POST", `/cron-jobs/${id}/resume`, {});
    assert.match(resumed.at("data", "next_run_at"), /T04:00:00/);
    const changed = await api("PATCH", `/cron-jobs/${id}`, { schedule: "0 5 * * *" });
    assert.match(changed.at("data", "next_run_at"), /T05:00:00/);
    assert.equal((await api("DELETE", `/cron-jobs/${id}`)).status, 200);
    assert.equal((await api("GET", `/cron-jobs/${id}`)).status, 404);
  });

  await t.test(
    "each occurrence of many jobs is executed exactly once, with a typed reason when it cannot run",
    async () => {
      const jobs = await Promise.all(Array.from({ length: 12 }, () => make({})));
      const ids = jobs.map((job) => job.at("data", "id"));
      await Promise.all(ids.map((id) => setDue(id, 0)));
      await waitFor(
        "one ended execution of each",
        async () => {
          const rows = await query<{ n: string }>(
            pool,
            "select count(*) as n from cron_executions where cron_job_id = any($1) and state = 'failed'",
            [ids],
          );
          return Number(rows[0]!.n) >= ids.length;
        },
        20_000,
        100,
      );
      for (const id of ids) {
        const scheduled = await executions(id);
        const ticks = scheduled.map((one) => one["scheduled_for"]);
        assert.equal(new Set(ticks).size, ticks.length, "no occurrence twice");
        assert.equal(scheduled.at(-1)!["reason"], "not_serving");
        assert.match(scheduled.at(-1)!["error"]!, /Promote a release/);
      }
      await pool.query("update cron_jobs set state = 'paused' where id = any($1)", [ids]);
    },
  );

  await t.test("an occurrence that was missed, or that meets a run, is recorded and not run", async () => {
    const id = (await make({ schedule: "0 0 1 1 *" })).at("data", "id");
    await setDue(id, -30);
    const missed = await waitFor("the record", async () => (await executions(id))[0], 10_000, 100);
    assert.deepEqual([missed["state"], missed["reason"], missed["started_at"]], ["skipped", "missed", null]);
    const job = (await api("GET", `/cron-jobs/${id}`)).at("data", "next_run_at");
    assert.ok(Date.parse(job) > Date.now());
    await pool.query(
      `insert into cron_executions (id, tenant_id, cron_job_id, trigger, state, lease_until)
       select gen_random_uuid(), tenant_id, id, 'manual', 'running', now() + interval '1 hour' from cron_jobs where id = $1`,
      [id],
    );
    await setDue(id, 0);
    await waitFor(
      "the overlap",
      async () => (await executions(id)).some((one) => one["reason"] === "overlap"),
      10_000,
      100,
    );
    assert.equal((await api("DELETE", `/cron-jobs/${id}`)).status, 200);
  });

  await t.test("run-now with one Idempotency-Key runs once", async () => {
    const id = (await make({ schedule: "0 0 1 1 *" })).at("data", "id");
    const run = () => api("POST", `/cron-jobs/${id}/run-now`, {}, { "idempotency-key": "run-1" });
    const [one, two] = await Promise.all([run(), run()]);
    assert.equal(one.at("data", "id"), two.at("data", "id"), one.text + two.text);
    const path = `/cron-jobs/${id}/executions/${one.at("data", "id")}`;
    await waitFor(
      "its end",
      async () => (await api("GET", path)).at("data", "state") === "failed",
      10_000,
      50,
    );
    assert.equal((await executions(id)).length, 1);
    assert.notEqual((await api("GET", `/cron-jobs/${id}`)).at("data", "last_run_at"), null);
  });

  await t.test("a run whose control plane dies ends as lost, and is not repeated", async () => {
    const sandbox = await api("POST", "/sandboxes", { name: "never-up" });
    assert.ok(sandbox.status < 300, sandbox.text);
    // Without a host the sandbox never starts, so the run waits for it.
    const id = (await make({ computer_id: "never-up", schedule: "0 0 1 1 *" })).at("data", "id");
    await api("POST", `/cron-jobs/${id}/run-now`, {});
    await waitFor("the run", async () => (await executions(id))[0]?.["state"] === "running", 10_000, 50);
    await platform.killControlPlanes();
    // The edge still talks to the first one's port.
    await platform.startControlPlane({ CONTROL_PLANE_PORT: String(platform.controlPlane.port) });
    await waitFor("the verdict", async () => (await executions(id))[0]?.["state"] === "failed", 40_000, 200);
    const [only, ...others] = await executions(id);
    assert.equal(only!["reason"], "lost");
    assert.equal(others.length, 0);
  });
});
