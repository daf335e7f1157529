import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { broken } from "./corpus/broken.ts";
import { repair } from "./corpus/fixer.ts";
import { startOwnPlatform, type OwnPlatform } from "./own-platform.ts";

/** A repair may bring the next fault to light; more rounds than this mean that it goes in circles. */
const mostRounds = 3;

let platform: OwnPlatform;
let repaired = 0;
let ran = 0;
before(async () => {
  platform = await startOwnPlatform();
});
after(async () => platform.stop());

/** Of the projects only each so many-th one, for a run with little time. */
const every = Number(process.env["BROKEN_EVERY"] ?? 1);

/** Or those whose names hold one of these words. */
const words = process.env["BROKEN"]?.split(",") ?? [];
const isWanted = (name: string) => words.length === 0 || words.some((word) => name.includes(word));

for (const project of broken.filter(({ name }, at) => at % every === 0 && isWanted(name))) {
  test(`${project.name} is refused with ${project.code}`, async (t) => {
    const name = `broken-${Math.random().toString(36).slice(2, 10)}`;
    const id = await platform.sandbox(name, project.files);
    t.after(() => platform.api("DELETE", `/sandboxes/${id}`));
    const vars = Object.entries(project.env ?? {}).map(([key, value]) => ({ key, value }));
    if (vars.length > 0) await platform.must("PUT", `/sandboxes/${id}/env`, { vars });
    for (const command of project.prepare ?? []) await platform.exec(id, command);
    let request: Record<string, unknown> = { name, ...project.publish };
    let answer = await platform.api("POST", `/sandboxes/${id}/publish`, request);
    const error = answer.body["error"] as { code: string; message: string; details: Record<string, unknown> };
    assert.equal(answer.status, 422, JSON.stringify(answer.body).slice(0, 1000));
    assert.equal(
      error.code,
      project.code,
      `${error.message} ${JSON.stringify(error.details).slice(0, 1500)}`,
    );
    assert.equal(typeof error.details["pointer"], "string");
    assert.ok((error.details["evidence"] as string[]).length > 0, "no evidence");
    t.after(() => platform.api("DELETE", `/deployments/${String(error.details["deployment_id"])}`));
    ran++;
    for (let round = 0; answer.status === 422 && round < mostRounds; round++) {
      const next = await repair(
        platform,
        id,
        { ...request, deployment_id: error.details["deployment_id"] },
        answer.body,
      );
      if (!next) break;
      request = next;
      answer = await platform.api("POST", `/sandboxes/${id}/publish`, request);
    }
    if (answer.status < 300) repaired++;
    t.diagnostic(answer.status < 300 ? "repaired by its refusal alone" : "not repaired");
  });
}

test("the refusals alone repair at least six of ten", (t) => {
  t.diagnostic(`${repaired} of ${ran} repaired`);
  if (every > 1 || words.length > 0) return t.skip("only some of the projects were run");
  assert.ok(ran >= 40);
  assert.ok(repaired / ran >= 0.6, `${repaired} of ${ran}`);
});
