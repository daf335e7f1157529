import assert from "node:assert/strict";
import { test } from "node:test";
import type { Json } from "./api.ts";
import { unwrapped as data } from "./rules.ts";
import type { Scene } from "./scene.ts";
import { assertShape, inside, shapes } from "./shapes.ts";

/** Calls of the contract that go beyond one sandbox, one command, one file. */
export function extras(scene: Scene): void {
  const { api, ok, refused } = scene;
  const at = () => `/sandboxes/${scene.box}`;

  test("one call runs a command in a new sandbox", async () => {
    const answer = ok(await api.post("/sandboxes/run", { command: "echo ran", size: "xs" }));
    const { data: sandbox, exec, timings } = answer.json as Record<string, Json>;
    assertShape(sandbox, shapes.sandbox, "run's sandbox");
    assertShape(exec, shapes.exec, "run's exec");
    assert.equal(exec!["stdout"], "ran\n");
    assertShape(timings, { ready_ms: "number", exec_ms: "number", total_ms: "number" }, "timings");
    ok(await api.call("DELETE", `/sandboxes/${String(sandbox!["id"])}`));
  });

  test("a batch is accepted, told of, and its sandboxes are removed by a bulk action", async () => {
    const made = ok(
      await api.create("/sandboxes/batch", { count: 2, size: "xs", name_prefix: "batch" }),
      202,
    );
    const batch = `/sandboxes/batches/${String(data(made)["id"])}`;
    await api.until(batch, (json) => (json["data"] as Json)["status"] === "completed");
    const items = inside(ok(await api.get(`${batch}/items`)), "L") as Json[];
    assertShape(items[0], { index: "number", sandbox_id: "uuid", name: "string?", state: "string" }, "item");
    refused(await api.post(`${batch}/cancel`), 409, "BATCH_ALREADY_TERMINAL");
    const job = inside(
      ok(await api.post("/bulk/sandboxes/delete", { ids: items.map((one) => one["sandbox_id"]) }), 202),
      "T",
    ) as Json;
    assertShape(job, { job_id: "uuid", queued: "number" }, "bulk");
    const ended = await api.until(
      `/bulk/jobs/${String(job["job_id"])}`,
      (json) => json["state"] === "completed",
    );
    assertShape(
      inside(ended, "T"),
      { job_id: "uuid", action: "string", total: "number", completed: "number", failed: "number" },
      "job",
    );
  });

  test("several forks of one moment come in one answer, and a running sandbox is not recovered", async () => {
    const forks = inside(ok(await api.create(`${at()}/fork`, { count: 2 }), 201), "T") as Json;
    assert.equal((forks["forks"] as Json[]).length, 2);
    for (const fork of forks["forks"] as Json[]) {
      assertShape(fork, shapes.sandbox, "fork");
      ok(await api.call("DELETE", `/sandboxes/${String(fork["id"])}`));
    }
    refused(await api.post(`${at()}/recover`), 409, "CONFLICT");
  });

  test("exports are listed as artifacts, and stay inside", async () => {
    ok(await api.post(`${at()}/fs/write`, { path: "out/report.txt", content: "done" }), 201);
    const made = inside(
      ok(await api.create(`${at()}/exports`, { path: "out", label: "report" }), 201),
      "D",
    ) as Json;
    assertShape(
      made,
      {
        id: "uuid",
        sandbox_id: "uuid",
        status: "string",
        label: "string?",
        filename: "string",
        files: "array",
        archive_download_url: "url",
        created_at: "time",
      },
      "export",
    );
    ok(await api.get(`${at()}/exports/download?path=out&filename=out.tar`));
    refused(await api.post(`${at()}/exports`, { path: "/etc" }), 422, "INVALID_PATH");
    const artifacts = inside(ok(await api.get(`${at()}/artifacts`)), "L") as Json[];
    assert.ok(artifacts.some((one) => one["id"] === made["id"]));
  });

  test("a terminal is opened and ended, SSH says honestly what there is", async () => {
    const terminal = inside(ok(await api.post(`${at()}/terminal`, { cols: 80, rows: 24 }), 201), "D") as Json;
    assertShape(terminal, { id: "string", url: "string", pid: "number" }, "terminal");
    refused(await api.get(`${at()}/terminal/${String(terminal["id"])}`), 426, "UPGRADE_REQUIRED");
    ok(await api.call("DELETE", `${at()}/terminal/${String(terminal["id"])}`));
    const ssh = inside(ok(await api.get(`${at()}/ssh-info`)), "T") as Json;
    assertShape(
      ssh,
      { port: "number", user: "string", transport: "string", tunnel_url: "string", certificates: "object" },
      "ssh-info",
    );
    refused(
      await api.post(`${at()}/ssh-certificates`, { public_key: "ssh-ed25519 AAAA" }),
      409,
      "SSH_UNAVAILABLE",
    );
  });

  test("files are searched, replaced and patched, and a patch that does not fit says which hunk", async () => {
    ok(await api.post(`${at()}/fs/write`, { path: "tools/a.txt", content: "alpha\nbeta\n" }), 201);
    const found = data(ok(await api.post(`${at()}/search`, { pattern: "beta", path: "/workspace/tools" })));
    assert.deepEqual(
      (found["matches"] as Json[]).map((one) => [one["path"], one["line"]]),
      [["/workspace/tools/a.txt", 2]],
    );
    const dry = data(
      ok(
        await api.post(`${at()}/replace`, {
          pattern: "beta",
          replacement: "gamma",
          path: "tools",
          dry_run: true,
        }),
      ),
    );
    assert.equal(dry["count"], 1);
    const patch = (line: string) =>
      `--- a/tools/a.txt\n+++ b/tools/a.txt\n@@ -1,2 +1,2 @@\n ${line}\n-beta\n+delta\n`;
    refused(await api.post(`${at()}/patch`, { patch: patch("other") }), 409, "PATCH_REJECTED");
    ok(await api.post(`${at()}/patch`, { patch: patch("alpha") }));
  });

  test("links to a preview are given, listed and ended", async () => {
    const share = inside(ok(await api.create(`${at()}/shares`, { expires_in: 60 }), 201), "D") as Json;
    assertShape(share, { share_id: "uuid", share_url: "url", expires_at: "time", scope: "string" }, "share");
    const token = inside(ok(await api.create(`${at()}/preview-token`, {}), 201), "D") as Json;
    assertShape(token, { token: "string", url: "url", expires_at: "time", scope: "string" }, "token");
    assert.ok((inside(ok(await api.get(`${at()}/shares`)), "L") as Json[]).length >= 2);
    ok(await api.call("DELETE", `${at()}/shares/${String(share["share_id"])}`));
  });
}
