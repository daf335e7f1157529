import assert from "node:assert/strict";
import { test } from "node:test";
import { startBoxes, whyNoBoxes, type Boxes } from "../testing-boxes.ts";
import type { ApiAnswer } from "../testing-programs.ts";
import { BehavingApp, eventually, type Json } from "./testing-app.ts";

test("deployments", { skip: whyNoBoxes() ?? false }, async (suite) => {
  const platform: Boxes = await startBoxes(suite, {
    INSTANCE_MEMORY_BYTES: String(256 * 1024 * 1024),
    METRICS_EVERY_MS: "1000",
  });
  const app = await BehavingApp.start(platform, "deploys");
  await app.publish("good");

  const error = (answer: ApiAnswer) => answer.at<{ code: string; details: Json }>("error");

  await suite.test(
    "three instances serve, each in a box of its own, and a smaller number again later",
    async () => {
      const seen = new Set<string>();
      assert.equal((await app.set({ instances: 3 }))["instances"], 3);
      await eventually("answers of three processes", async () => {
        const { text } = await platform.fetch(`http://${app.host}/`);
        seen.add(String((JSON.parse(text) as { pid: number; release: string }).pid));
        const healthy = (await app.instances()).filter((one) => one["state"] === "healthy");
        return new Set(healthy.map((one) => one["slot"])).size === 3;
      });
      await eventually("the log of each", async () => {
        const { logs } = (await platform.must("GET", `${app.path}/logs?q=listens`)) as { logs: Json[] };
        return new Set(logs.map((line) => line["instance_id"])).size === 3;
      });
      await app.set({ instances: 1, drain_sec: 1, websocket_drain_sec: 0 });
      await eventually("one instance", async () => (await app.instances()).length === 1);
      const kept = (await platform.must("GET", `${app.path}/logs?q=goodbye`)) as { logs: Json[] };
      assert.equal(kept.logs.length, 2, "each of the two was told to end, and what it said is kept");
      const metrics = await eventually("a series", async () => {
        const { series } = (await platform.must("GET", `${app.path}/metrics`)) as {
          series: Record<string, Json[]>;
        };
        return series["memory_mb"]!.length > 0 && series;
      });
      assert.ok(metrics["requests"]!.length > 0);
    },
  );

  await suite.test("a kill for memory is told with numbers, a plain SIGKILL is not called one", async () => {
    const exits = async () => ((await app.instances())[0]?.["exits"] ?? []) as Json[];
    await platform.fetch(`http://${app.host}/kill`);
    const killed = await eventually("the exit by SIGKILL", async () => (await exits()).at(-1));
    assert.ok(killed["reason"] === "killed" || killed["exit_code"] === 137, JSON.stringify(killed));
    assert.notEqual(killed["reason"], "oom");
    assert.deepEqual(await app.events("deployment.oom"), []);
    await eventually("the app again", async () => (await app.serves()) === "deploys-1");
    await platform.fetch(`http://${app.host}/oom`);
    const event = await eventually("the event", async () => (await app.events("deployment.oom"))[0]);
    const evidence = event["payload"] as Json;
    assert.equal(evidence["limit_bytes"], 256 * 1024 * 1024, JSON.stringify(event));
    assert.ok(Number(evidence["peak_bytes"]) > 200 * 1024 * 1024);
    assert.match(String(evidence["suggestion"]), /limit is 256 MiB/);
    await eventually("the exit's reason", async () => (await exits()).some((one) => one["reason"] === "oom"));
    await eventually("the app again", async () => (await app.serves()) === "deploys-1");
  });

  await suite.test("what does not become healthy gets no traffic, and the promote says why", async () => {
    const refused = await platform.api("POST", `/sandboxes/${app.sandboxId}/publish`, {
      ...{ deployment_id: app.id, deployment_type: "dynamic", install_command: false, promote: false },
      ...{ run_command: "exit 3", port: 3000, health_check_path: "/healthz" },
    });
    assert.equal(refused.status, 422, refused.text);
    assert.equal(await app.serves(), "deploys-1");
  });

  await suite.test("a canary that answers with errors is stopped, and nobody saw its errors", async () => {
    const broken = await app.publish("broken");
    await app.promote(broken, { canary: { steps: [50], step_sec: 120, sticky: "request", min_errors: 3 } });
    const answers = new Set<string>();
    const failed = await eventually("the verdict", async () => {
      for (let sent = 0; sent < 10; sent++) answers.add(await app.serves());
      return (await app.promotions()).find(
        (one) => one["release_id"] === broken.releaseId && one["state"] === "failed",
      );
    });
    assert.deepEqual([...answers], ["deploys-1"]);
    assert.equal((failed["error"] as Json)["code"], "CANARY_FAILED");
    const version = await platform.must("GET", `${app.path}/versions/${broken.versionId}`);
    assert.equal((version["verdict"] as Json)["verdict"], "canary_failed");
  });

  await suite.test("a canary that answers well goes step by step until it has all traffic", async () => {
    const good = await app.publish("good");
    await app.promote(good, { canary: { steps: [30, 60], step_sec: 2, sticky: "request" } });
    const answers = new Set<string>();
    await eventually("all traffic", async () => {
      answers.add(await app.serves());
      return (await app.get())["active_release_id"] === good.releaseId;
    });
    assert.ok(answers.has("deploys-1") && answers.has(good.name), [...answers].join());
    const done = (await app.promotions()).find((one) => one["release_id"] === good.releaseId)!;
    assert.equal(((done["canary"] as Json)["steps"] as Json[]).length, 2);
    assert.equal(await app.serves(), good.name);
  });

  await suite.test(
    "a release that crashes on trial is replaced by the one before, without a failed request",
    async () => {
      const before = String((await app.get())["active_release_id"]);
      const crashing = await app.publish("crashing");
      await app.promote(crashing);
      const answers: string[] = [];
      const returned = await eventually("the return", async () => {
        for (let sent = 0; sent < 5; sent++) answers.push(await app.serves());
        return (await app.get())["active_release_id"] === before && (await app.get());
      });
      assert.deepEqual(
        answers.filter((answer) => answer.startsWith("status")),
        [],
      );
      assert.equal((returned["last_failure"] as Json)["code"], "RELEASE_DIED");
      const [event] = await app.events("deployment.returned");
      assert.ok(event, "the return is an event");
      const version = await platform.must("GET", `${app.path}/versions/${crashing.versionId}`);
      assert.equal((version["verdict"] as Json)["verdict"], "died_on_trial");
      assert.equal((await app.promotions())[0]!["kind"], "return");
    },
  );

  await suite.test(
    "a rollback goes back twice in a row, passes over what died, and refuses to go behind the schema",
    async () => {
      const serving = await app.serves();
      const migrated = await app.publish("good", {
        promote: true,
        metadata: { migrations: ["001_init", "002_more"] },
      });
      await app.set({ schema_policy: "refuse" });
      const refused = await platform.api("POST", `${app.path}/rollback`, {});
      assert.equal(error(refused).code, "SCHEMA_NEWER");
      assert.deepEqual(error(refused).details["schema_newer"], ["001_init", "002_more"]);
      await app.rollback({ allow_schema_newer: true });
      assert.equal(await app.serves(), serving);
      await app.set({ schema_policy: "warn" });
      await app.rollback();
      assert.equal(await app.serves(), "deploys-1");
      const newest = (await app.promotions())[0]!;
      assert.deepEqual(newest["schema_newer"], ["001_init", "002_more"]);
      const none = await platform.api("POST", `${app.path}/rollback`, {});
      assert.equal(error(none).code, "NO_PREVIOUS_RELEASE");
      await app.promote(migrated);
      assert.equal(await app.serves(), migrated.name);
    },
  );

  await suite.test(
    "promotes wait for their time, for another key's approval, and for each other",
    async () => {
      const [first] = app.releases as [BehavingApp["releases"][number]];
      const serving = await app.serves();
      await app.promote(first, { at: new Date(Date.now() + 2_500).toISOString() });
      assert.equal((((await app.get())["pending_promotions"] as Json[])[0] as Json)["state"], "scheduled");
      assert.equal(await app.serves(), serving);
      await eventually("the scheduled promote", async () => (await app.serves()) === first.name);
      await app.set({ approval_required: true });
      const other = app.releases.at(-1)!;
      await app.promote(other);
      const [waiting] = await app.promotions();
      assert.equal(waiting!["state"], "awaiting_approval");
      const path = `${app.path}/promotions/${String(waiting!["id"])}`;
      assert.equal(error(await platform.api("POST", `${path}/approve`, {})).code, "APPROVAL_REFUSED");
      const key = await platform.must("POST", "/api-keys", { name: "second pair of eyes", scopes: ["*"] });
      const approved = await platform.api(
        "POST",
        `${path}/approve`,
        {},
        { authorization: `Bearer ${String(key["key"])}` },
      );
      assert.equal(approved.status, 200, approved.text);
      await eventually("the approved promote", async () => (await app.serves()) === other.name);
      const audit = (await platform.must("GET", "/audit-log?limit=50")) as unknown as Json[];
      const entry = await eventually("the audit row", async () =>
        audit.find((one) => one["action"] === "deployments.promotion.approved"),
      );
      assert.equal((entry["metadata"] as Json)["artifact_sha256"], waiting!["artifact_sha256"]);
      await app.set({ approval_required: false, locked: "freeze until Monday" });
      assert.equal(error(await app.tryPromote(first)).code, "DEPLOYMENT_LOCKED");
      await app.set({ locked: "" });
    },
  );

  await suite.test("a promote that is cancelled leaves traffic where it was", async () => {
    const serving = await app.serves();
    const next = app.releases[0]!;
    await app.promote(next, { canary: { steps: [1], step_sec: 600, sticky: "client" } });
    const running = await eventually("the canary", async () =>
      (await app.promotions()).find((one) => one["state"] === "running" && one["canary"] !== null),
    );
    await platform.must("POST", `${app.path}/promotions/${String(running["id"])}/cancel`, {});
    const now = await app.get();
    assert.equal(((now["promotion"] as Json)["failure"] as Json)["code"], "PROMOTE_CANCELLED");
    assert.equal(await app.serves(), serving);
  });

  await suite.test("maintenance shows a page, hold makes requests wait, off serves again", async () => {
    const name = await app.serves();
    await platform.must("POST", `${app.path}/maintenance`, { mode: "on", message: "Back at noon" });
    const page = await platform.fetch(`http://${app.host}/`);
    assert.equal(page.status, 503);
    await platform.must("POST", `${app.path}/maintenance`, { mode: "hold" });
    const held = app.serves();
    await platform.must("POST", `${app.path}/maintenance`, { mode: "off" });
    assert.equal(await held, name);
  });

  await suite.test(
    "a deployment without traffic sleeps, and its first request wakes it and is answered",
    async () => {
      const name = await app.serves();
      await app.set({ scale_to_zero: true, idle_sec: 2, trial_sec: 0, keep_warm_sec: 0 });
      // What is on trial does not sleep.
      await app.rollback();
      await app.promote(app.releases.find((one) => one.name === name)!);
      await eventually("the sleep", async () => (await app.get())["asleep"] === true);
      await eventually("no instance", async () => (await app.instances()).length === 0);
      assert.equal(await app.serves(), name);
      assert.equal((await app.get())["asleep"], false);
      await app.set({ scale_to_zero: false });
    },
  );
});
