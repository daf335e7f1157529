import assert from "node:assert/strict";
import { test } from "node:test";
import { waitFor } from "@platform/daemon";
import { startBoxes, whyNoBoxes } from "../testing-boxes.ts";

const skip = whyNoBoxes() ?? false;

test("visitors of a deployment that never served see how far it is", { skip }, async (t) => {
  const boxes = await startBoxes(t);
  const { must, api } = boxes;
  const sandbox = await boxes.sandbox();
  const write = (path: string, content: string) =>
    must("POST", `/sandboxes/${sandbox}/files`, {
      path: `/workspace/${path}`,
      content: Buffer.from(content).toString("base64"),
    });
  await write("server.mjs", "console.error('no database'); process.exit(3);");
  const { id } = await must<{ id: string }>("POST", "/deployments", { name: "clinic" });
  const url = String((await must<Record<string, unknown>>("GET", `/deployments/${id}`))["public_url"]);
  const sees = (page: string) =>
    waitFor(
      `the page ${page}`,
      async () => {
        const answer = await boxes.fetch(url, { headers: { accept: "text/html" } });
        return answer.headers["x-edge-page"] === page && answer;
      },
      60_000,
    );
  const publish = (more: Record<string, unknown>) =>
    api("POST", `/sandboxes/${sandbox}/publish`, {
      ...{ deployment_id: id, deployment_type: "dynamic", install_command: false },
      ...{ run_command: "node server.mjs", ...more },
    });
  await sees("not-found");

  await t.test("while it is built, that it is on its way; when that failed, that it did", async () => {
    const publishing = publish({ build_command: "sleep 2; exit 4" });
    await sees("starting");
    assert.equal((await publishing).status, 422);
    const failed = await sees("build-failed");
    assert.match(failed.text, /Clinic/);
    assert.doesNotMatch(failed.text, /exit 4|sleep 2/, "what went wrong is its owner's business");
  });

  await t.test("and the app itself once it serves", async () => {
    await write(
      "server.mjs",
      "import { createServer } from 'node:http'; createServer((q, r) => r.end('open')).listen(process.env.PORT ?? 3000, '0.0.0.0');",
    );
    const published = await publish({});
    assert.equal(published.status, 201, published.text);
    assert.equal((await boxes.fetch(url)).text, "open");
    const broken = await publish({ build_command: "exit 4" });
    assert.equal(broken.status, 422);
    assert.equal((await boxes.fetch(url)).text, "open", "what serves goes on serving");
  });
});
