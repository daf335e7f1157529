import assert from "node:assert/strict";
import { test } from "node:test";
import { waitFor } from "@platform/daemon";
import { imageOf, layoutOf, tinySystem } from "@platform/host-api/testing";
import { startBoxes, whyNoBoxes } from "../testing-boxes.ts";

type Row = Record<string, unknown>;
const skip =
  whyNoBoxes() ??
  (process.getuid?.() === 0 ? false : "templates are built as root only: files have many owners");

test("the calls of the client's template builder build, log, list and delete", { skip }, async (t) => {
  const boxes = await startBoxes(t);
  const origin = (host: string) => `http://${host}.${boxes.domain}:${boxes.edge.port}`;
  const call = async (method: string, path: string, body?: unknown) => {
    const answer = await boxes.fetch(origin("api.sandbox") + path, {
      method,
      headers: { "x-api-key": boxes.key, "content-type": "application/json" },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    return { status: answer.status, body: (answer.text === "" ? null : JSON.parse(answer.text)) as Row };
  };
  const uploaded = await boxes.fetch(`${origin("api")}/api/v1/sandbox-template-images`, {
    method: "POST",
    headers: { authorization: `Bearer ${boxes.key}` },
    body: await layoutOf(imageOf([{ bytes: await tinySystem() }])),
  });
  const { image } = (JSON.parse(uploaded.text) as { data: { image: string } }).data;

  /** Asks for a build and polls as the client does. */
  const build = async (name: string, spec: Row) => {
    const asked = await call("POST", "/v3/templates", { name, cpuCount: 1, memoryMB: 1024 });
    assert.equal(asked.status, 202, JSON.stringify(asked.body));
    const [template, id] = [String(asked.body["templateID"]), String(asked.body["buildID"])];
    const at = `/templates/${template}/builds/${id}`;
    assert.equal((await call("GET", `${at}/status`)).body["status"], "waiting");
    const started = await call("POST", `/v2${at}`, spec);
    assert.equal(started.status, 202, JSON.stringify(started.body));
    const logs: string[] = [];
    const end = await waitFor(
      "the build to end",
      async () => {
        const { body } = await call("GET", `${at}/status?logsOffset=${logs.length}`);
        const entries = body["logEntries"] as { message: string }[];
        logs.push(...entries.map(({ message }) => message));
        const isOver = body["status"] === "ready" || body["status"] === "error";
        return isOver && entries.length === 0 ? body : undefined;
      },
      300_000,
    );
    return { template, end, logs: logs.join("\n") };
  };

  await t.test("from an image, then from that template, the newest build being used", async () => {
    const base = await build("small-base:default", { fromImage: image });
    assert.equal(base.end["status"], "ready", base.logs);
    const spec = (word: string) => ({
      fromTemplate: "small-base",
      steps: [
        { type: "USER", args: ["root"] },
        { type: "ENV", args: ["GREETING", word, "OTHER", "it's"] },
        { type: "WORKDIR", args: ["/opt/app"] },
        { type: "RUN", args: ['echo "$GREETING $OTHER" > greeting; ls -d /opt/app', "root"] },
      ],
      startCmd: "echo started > /tmp/started; exec sleep 6000",
      readyCmd: "test -f /tmp/started",
    });
    for (const word of ["first", "second"]) {
      const made = await build("made", spec(word));
      assert.equal(made.end["status"], "ready", made.logs);
      assert.match(made.logs, /^\/opt\/app$/m);
      const id = await boxes.sandbox({ template_id: "made" });
      const look = await boxes.must("POST", `/sandboxes/${id}/exec`, {
        command: "cat /opt/app/greeting; echo $GREETING",
      });
      assert.equal(look["stdout"], `${word} it's\n${word}\n`);
      await boxes.must("DELETE", `/sandboxes/${id}`);
    }
    assert.equal((await call("GET", "/templates/aliases/made")).status, 200);
    const row = (await call("GET", "/templates/made")).body;
    assert.deepEqual(
      (row["builds"] as Row[]).map((one) => one["status"]),
      ["ready", "ready"],
    );
    const list = (await call("GET", "/v2/templates")).body as unknown as Row[];
    assert.equal(list.find((one) => (one["names"] as string[]).includes("made"))?.["cpuCount"], 1);
    assert.equal((await call("DELETE", "/templates/made")).status, 204);
    assert.equal((await call("GET", "/templates/aliases/made")).status, 404);
  });

  await t.test("what fails is told with its reason", async () => {
    const failed = await build("failing", {
      fromTemplate: "small-base",
      steps: [{ type: "RUN", args: ["echo on purpose >&2; exit 4"] }],
    });
    assert.match(JSON.stringify(failed.end["reason"]), /Step 1 ended with 4/);
    assert.match(failed.logs, /^on purpose$/m);
    const asked = await call("POST", "/v3/templates", { name: "copying" });
    const at = `/templates/${String(asked.body["templateID"])}`;
    for (const refused of [
      await call("GET", `${at}/files/abc`),
      await call("POST", `/v2${at}/builds/${String(asked.body["buildID"])}`, {
        steps: [{ type: "COPY", args: ["a", "b"] }],
      }),
      await call("POST", "/v3/templates", { name: "tagged:v2" }),
    ]) {
      assert.equal(refused.status, 400, JSON.stringify(refused.body));
      assert.match(String(refused.body["message"]), /not supported here|is no hash of files/);
    }
    const stray = await call("PUT", "/template-files?token=made-up", {});
    assert.equal(stray.status, 403, JSON.stringify(stray.body));
    assert.equal((await call("POST", "/v3/templates", { name: "base" })).status, 403);
    assert.equal((await call("GET", "/templates/no-such/builds/x/status")).status, 404);
  });
});
