import assert from "node:assert/strict";
import { test } from "node:test";
import { base64, type Json } from "./api.ts";
import { unwrapped as data } from "./rules.ts";
import { assertShape, inside, shapes } from "./shapes.ts";
import type { Scene } from "./scene.ts";

export function commands(scene: Scene): void {
  const { api, ok, refused } = scene;
  test("a command that fails or runs too long is an answer, not an error", async () => {
    const run = (body: unknown) => api.post(`/sandboxes/${scene.box}/exec`, body);
    const failed = inside(ok(await run({ command: "echo hi; exit 3", timeout: 30 })), "D") as Json;
    assertShape(failed, shapes.exec, "exec");
    assert.deepEqual(
      [failed["stdout"], failed["stderr"], failed["exit_code"], failed["timed_out"]],
      ["hi\n", "", 3, false],
    );
    const late = data(ok(await run({ command: "sleep 20", timeout: 1 })));
    assert.deepEqual([late["exit_code"], late["timed_out"]], [-1, true]);
    const there = data(ok(await run({ command: "echo $X; pwd", dir: "/tmp", env: { X: "1" } })));
    assert.equal(there["stdout"], "1\n/tmp\n");
    const both = data(
      ok(
        await api.post(`/sandboxes/${scene.box}/commands`, {
          command: "cat",
          stdin: "in",
          timeout_seconds: 10,
        }),
        201,
      ),
    );
    assert.equal(both["stdout"], "in");
  });

  test("a streamed command sends its lines and ends with its exit, -1 after a time-out", async () => {
    const read = async (command: string, timeout: number) =>
      api.stream(`/sandboxes/${scene.box}/exec/stream`, () => false, {
        body: { command, timeout },
        accept: "text/event-stream, application/json, */*",
      });
    const short = await read("echo hi; echo no >&2; exit 3", 20);
    assert.match(short.headers["content-type"] ?? "", /^text\/event-stream/);
    assert.ok(short.ended && short.headers["x-request-id"]);
    for (const { event, data: payload } of short.events) assert.equal(payload["type"], event);
    assert.deepEqual(short.events.find(({ event }) => event === "stdout")?.data, {
      type: "stdout",
      line: "hi",
    });
    assert.deepEqual(short.events.find(({ event }) => event === "stderr")?.data, {
      type: "stderr",
      line: "no",
    });
    assert.equal(short.events.at(-1)?.event, "exit");
    assert.equal(short.events.at(-1)?.data["exit_code"], 3);
    const late = await read("echo a; sleep 20", 1);
    assert.deepEqual(
      late.events.map(({ event }) => event),
      ["stdout", "exit"],
    );
    assert.equal(late.events.at(-1)?.data["exit_code"], -1);
  });

  test("the readiness stream of a ready sandbox says so at once and ends, also with a ticket alone", async () => {
    const { ticket } = inside(ok(await api.post("/sse/ticket")), "T") as { ticket: string };
    const read = await api.stream(`/sandboxes/${scene.box}/readiness/stream?ticket=${ticket}`, () => false, {
      key: null,
    });
    assert.deepEqual(
      read.events.map(({ event, data: payload }) => [event, payload["type"], payload["ready"]]),
      [["ready", "ready", true]],
    );
    assert.ok(read.ended);
    refused(await api.get(`/sandboxes/${scene.box}?ticket=${ticket}`, { key: null }), 401, "UNAUTHENTICATED");
    refused(
      await api.get("/events/stream?ticket=tkt_wrong", {
        key: null,
        headers: { accept: "text/event-stream" },
      }),
      401,
      "UNAUTHENTICATED",
    );
  });

  test("durable commands, processes and services can be found, read and ended", async () => {
    const at = `/sandboxes/${scene.box}`;
    const command = inside(
      ok(await api.post(`${at}/commands`, { command: "echo durable; sleep 60", tty: false }), 201),
      "D",
    ) as Json;
    assert.equal(command["status"], "running");
    await api.until(`${at}/commands/${command["id"]}/logs`, (json) =>
      ((json["data"] as Json)["lines"] as string[]).includes("durable"),
    );
    assertShape(
      inside(ok(await api.post(`${at}/commands/${command["id"]}/kill`)), "D"),
      { id: "uuid", status: "string" },
      "killed command",
    );
    const started = inside(
      ok(await api.post(`${at}/processes`, { command: "echo n; sleep 60", name: "worker" }), 201),
      "D",
    ) as Json;
    assertShape(started, { ...shapes.process, pid: "number" }, "process");
    for (const key of [started["id"], started["pid"]])
      assert.equal(data(ok(await api.get(`${at}/processes/${key}`)))["name"], "worker");
    assert.ok(
      (inside(ok(await api.get(`${at}/processes`)), "L") as Json[]).some(
        (row) => row["id"] === started["id"],
      ),
    );
    ok(await api.call("DELETE", `${at}/processes/${started["id"]}`));
    const service = inside(
      ok(await api.post(`${at}/services`, { name: "idle", command: "sleep 600" }), 201),
      "D",
    ) as Json;
    assertShape(service, shapes.process, "service");
    assert.equal(data(ok(await api.post(`${at}/services/idle/restart`)))["name"], "idle");
    assertShape(
      inside(ok(await api.get(`${at}/services/idle/logs?tail=5`)), "D"),
      { lines: "array" },
      "service logs",
    );
    ok(await api.call("DELETE", `${at}/processes/${service["id"]}`));
    assert.equal(data(ok(await api.post(`${at}/services/idle/restart`)))["status"], "running");
  });

  test("files are written and read in every form", async () => {
    const at = `/sandboxes/${scene.box}`;
    const odd = "/workspace/ä b#?.txt";
    const one = inside(ok(await api.post(`${at}/files`, { path: odd, content: base64("hällo") }), 201), "D");
    assert.deepEqual(one, { path: odd, size_bytes: 6 });
    for (const path of [
      `${at}/files/workspace/${encodeURIComponent("ä b#?.txt")}`,
      `${at}/files/${encodeURIComponent(odd.slice(1))}`,
      `${at}/fs/download?path=${encodeURIComponent(odd)}`,
    ]) {
      const read = ok(await api.get(path));
      assert.equal(read.text, "hällo", path);
      assert.match(read.headers["content-type"] ?? "", /octet-stream/);
    }
    const many = inside(
      ok(
        await api.post(`${at}/files/write-many`, {
          files: [
            { path: "/workspace/a.txt", content_base64: "YQ==" },
            { path: "/workspace/bad", content_base64: "%" },
          ],
        }),
      ),
      "D",
    ) as { written: Json[]; failed: Json[] };
    assert.deepEqual(many.written, [{ path: "/workspace/a.txt", size_bytes: 1 }]);
    assertShape(many.failed[0], { path: "string", error: "string" }, "failed");
    ok(
      await api.post(`${at}/files/batch`, { files: [{ path: "/workspace/d/b.txt", content: base64("b") }] }),
    );
    ok(
      await api.post(`${at}/fs/write-many`, {
        files: [{ path: "/workspace/d/c.txt", content_base64: base64("c") }],
      }),
    );
    assert.deepEqual(inside(ok(await api.get(`${at}/files/read?path=/workspace/a.txt`)), "D"), {
      path: "/workspace/a.txt",
      content: "a",
    });
    const { entries } = inside(ok(await api.get(`${at}/files?path=/workspace&depth=2`)), "D") as {
      entries: Json[];
    };
    assertShape(
      entries.find((row) => row["path"] === "/workspace/d/b.txt"),
      { name: "string", size: "number", is_dir: "boolean", modified_at: "time" },
      "entry",
    );
    for (const path of ["files/stat", "fs/stat"])
      assertShape(
        inside(ok(await api.post(`${at}/${path}`, { path: "/workspace/a.txt" })), "D"),
        { path: "string", size: "number", is_dir: "boolean", mode: "number", modified_at: "time" },
        path,
      );
    assertShape(
      inside(ok(await api.get(`${at}/files/tree?path=/workspace&depth=2`)), "D"),
      { path: "string", name: "string", type: "string", children: "array" },
      "tree",
    );
    assert.deepEqual(
      (
        inside(
          ok(await api.post(`${at}/fs/write`, { path: "/workspace/t.txt", content: "text" }), 201),
          "T",
        ) as Json
      )["success"],
      true,
    );
    ok(await api.post(`${at}/fs/write`, { path: "/workspace/u.txt", content_base64: base64("bytes") }), 201);
    assert.equal(
      (inside(ok(await api.get(`${at}/fs/read?path=/workspace/u.txt`)), "T") as Json)["content"],
      "bytes",
    );
    ok(await api.post(`${at}/fs/mkdir`, { path: "/workspace/m/n", recursive: true }));
    const { files } = inside(ok(await api.get(`${at}/fs?path=/workspace`)), "T") as { files: Json[] };
    assertShape(
      files.find((row) => row["name"] === "m"),
      { name: "string", type: "string", size_bytes: "number", modified_at: "time" },
      "fs entry",
    );
    assert.equal(
      (inside(ok(await api.call("DELETE", `${at}/fs?path=/workspace/m`)), "T") as Json)["success"],
      true,
    );
    ok(await api.call("DELETE", `${at}/files/workspace/t.txt`));
  });

  test("a watched folder tells of a change by name, and of no file that is still being written", async () => {
    const opened = Promise.withResolvers<void>();
    const watching = api.stream(
      `/sandboxes/${scene.box}/files/watch?path=/workspace`,
      ({ events }) => events.some((one) => one.data["path"] === "/workspace/seen.txt"),
      { onOpen: opened.resolve },
    );
    await opened.promise;
    // The stream is open before the watch is set in the sandbox: write until it was heard.
    const writing = setInterval(
      () =>
        void api.post(`/sandboxes/${scene.box}/files`, {
          path: "/workspace/seen.txt",
          content: base64(String(Date.now())),
        }),
      500,
    );
    const { events } = await watching;
    clearInterval(writing);
    assertShape(
      events.at(-1)?.data,
      { event: "string", type: "string", path: "string", is_dir: "boolean" },
      "watch",
    );
    assert.deepEqual(
      events.filter(({ data: { path } }) => String(path).endsWith(".upload")),
      [],
    );
  });
}
