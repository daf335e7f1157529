import assert from "node:assert/strict";
import { test } from "node:test";
import { startPrograms } from "../testing-programs.ts";

test("everything an app has is listed in one place, with what was last seen of it", async (t) => {
  const platform = await startPrograms(t);
  const { api } = platform;
  const deployment = (await api("POST", "/deployments", { name: "app" })).at("data", "id");
  const other = (await api("POST", "/deployments", { name: "other" })).at("data", "id");
  const sandbox = (await api("POST", "/sandboxes", { name: "box", external_user_id: "u1" })).at("id");
  await api("POST", "/storage/buckets", { name: "files" });
  const job = await api("POST", "/cron-jobs", {
    ...{ name: "nightly", schedule: "0 0 1 1 *", command: "true", deployment_id: deployment },
  });
  assert.equal(job.status, 201, job.text);
  const list = async (query: string) => {
    const answer = await api("GET", `/resources${query}`);
    assert.equal(answer.status, 200, answer.text);
    return answer.at<{ type: string; id: string; proof: { ok: boolean; what: string } | null }[]>("data");
  };
  const all = await list("");
  assert.deepEqual(
    all.map(({ type }) => type),
    ["bucket", "cron_job", "deployment", "deployment", "sandbox"],
  );
  assert.equal(all[0]!.proof!.ok, true);
  assert.equal(all[1]!.proof, null, "a job that never ran was never seen to run");
  const ofApp = await list(`?deployment_id=${deployment}`);
  assert.deepEqual(
    ofApp.map(({ id }) => id),
    [job.at("data", "id"), deployment],
  );
  assert.deepEqual(
    (await list("?external_user_id=u1")).map(({ id }) => id),
    [sandbox],
  );
  assert.deepEqual(
    (await list("?type=deployment")).map(({ id }) => id),
    [deployment, other],
  );
  const key = await api("POST", "/api-keys", { name: "narrow", scopes: ["sandboxes:read"] });
  const refused = await api("GET", "/resources", undefined, {
    authorization: `Bearer ${key.at("data", "key")}`,
  });
  assert.equal(refused.status, 403, refused.text);
});
