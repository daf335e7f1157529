import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { startOwnPlatform } from "./own-platform.ts";

test("a cancelled build ends its publish at once, and the deployment can be published again", async (t) => {
  const platform = await startOwnPlatform();
  t.after(() => platform.stop());
  const id = await platform.sandbox("cancelled", { "index.html": "<p>hello</p>" });
  const { id: deploymentId } = (await platform.must("POST", "/deployments", { name: "cancelled" })) as {
    id: string;
  };
  const publish = (build_command: string) =>
    platform.api("POST", `/deployments/${deploymentId}/publish`, {
      source_sandbox_id: id,
      build_command,
      output_path: ".",
    });
  const waiting = publish("echo begun; sleep 600");
  let buildId = "";
  for (let tries = 0; buildId === "" && tries < 600; tries++) {
    const { body } = await platform.api("GET", `/deployments/${deploymentId}/builds`);
    const [build] = body["data"] as { id: string; step: string }[];
    if (build?.step === "build") buildId = build.id;
    else await delay(100);
  }
  const cancelled = await platform.must("POST", `/deployments/${deploymentId}/builds/${buildId}/cancel`, {});
  assert.equal(cancelled["state"], "cancelled");
  const answer = await waiting;
  assert.deepEqual(
    [answer.status, (answer.body["error"] as { code: string }).code],
    [409, "BUILD_CANCELLED"],
  );
  const again = await publish("true");
  assert.equal(again.status, 200, JSON.stringify(again.body));
});
