import assert from "node:assert/strict";
import { request } from "node:http";
import { test } from "node:test";
import { waitFor } from "@platform/daemon";
import { startBoxes, whyNoBoxes, type Boxes } from "../testing-boxes.ts";
import { ask, edgeToken } from "../testing-programs.ts";

type Row = Record<string, unknown>;
const skip = whyNoBoxes() ?? false;
const server = `require("node:http").createServer((ask, answer) => {
  answer.setHeader("content-type", "text/html");
  answer.end("<html><head></head></html>");
}).listen(3000, "0.0.0.0")`;

test(
  "what pages of previews say in browsers comes back to whoever works in the sandbox",
  { skip },
  async (t) => {
    const boxes = await startBoxes(t);
    const { must, api } = boxes;
    const start = async (body: Row = {}) => {
      const id = await boxes.sandbox({ idle_timeout_sec: 0, ...body });
      await must("POST", `/sandboxes/${id}/fs/write`, { path: "/workspace/server.js", content: server });
      await must("POST", `/sandboxes/${id}/services`, { name: "web", command: "node server.js", port: 3000 });
      const { url } = await must<{ url: string }>("POST", `/sandboxes/${id}/expose`, { port: 3000 });
      return { id, at: `/sandboxes/${id}`, url };
    };
    const visit = async (url: string) =>
      (await boxes.fetch(`${url}/`, { headers: { accept: "text/html" } })).text;
    const say = (url: string, entries: readonly Row[], dropped = 0) =>
      boxes.fetch(`${url}/_edge/console`, {
        method: "POST",
        headers: { origin: new URL(url).origin },
        body: JSON.stringify({ entries, dropped }),
      });
    const report = async (body: unknown, token = edgeToken) =>
      (
        await ask(boxes.controlPlane.port, "control-plane", "/internal/edge/console", {
          method: "POST",
          headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
          body: JSON.stringify(body),
        })
      ).status;
    const lines = async (at: string, query = "") =>
      must<{ lines: Row[]; dropped: number; cursor: number }>("GET", `${at}/console${query}`);
    const heard = (at: string, text: string) =>
      waitFor(
        text,
        async () => (await lines(at)).lines.find((line) => line["text"] === text) ?? false,
        15_000,
      );
    const one = await start();

    await t.test("a page gets the script, and what it says is kept with its preview", async () => {
      assert.match(await visit(one.url), /<head><script src="\/_edge\/console\.js/);
      const entry = {
        level: "error",
        kind: "exception",
        text: "boom",
        page: "/",
        source: "/main.js",
        line: 7,
      };
      assert.equal(
        (await say(one.url, [entry, { level: "log", kind: "console", text: "hello" }], 3)).status,
        204,
      );
      const line = await heard(one.at, "boom");
      const [preview] = await must<Row[]>("GET", `${one.at}/previews`);
      assert.deepEqual([line["preview_id"], line["port"], line["line"]], [preview!["id"], 3000, 7]);
      const all = await lines(one.at);
      assert.equal(all.dropped, 3);
      assert.deepEqual(
        all.lines.map((row) => row["text"]),
        ["boom", "hello"],
      );
      assert.deepEqual(
        (await lines(one.at, "?level=warn")).lines.map((row) => row["text"]),
        ["boom"],
      );
      assert.deepEqual(
        (await lines(one.at, "?limit=1")).lines.map((row) => row["text"]),
        ["hello"],
      );
      const [event] = await must<Row[]>("GET", "/platform-events?after_seq=0&types=preview.console");
      assert.equal((event!["payload"] as Row)["sandbox_id"], one.id);
    });

    await t.test("the stream goes on where a list ended", async () => {
      const { cursor } = await lines(one.at);
      assert.equal((await say(one.url, [{ level: "warn", kind: "console", text: "later" }])).status, 204);
      const stream = await firstEvent(boxes, `${one.at}/console/stream`, cursor);
      assert.equal(stream["type"], "preview.console");
      assert.equal(((stream["data"] as Row)["entries"] as Row[])[0]!["text"], "later");
    });

    await t.test(
      "a sandbox, or one preview of it, that does not want it is left alone, from the next route on",
      async () => {
        const off = await start({ browser_console: false });
        assert.doesNotMatch(await visit(off.url), /_edge/);
        await must("POST", `${off.at}/expose`, { port: 3000, console: true });
        assert.match(await visit(off.url), /_edge/);
        await must("POST", `${one.at}/expose`, { port: 3000, console: false });
        assert.doesNotMatch(await visit(one.url), /_edge/);
        await must("POST", `${one.at}/expose`, { port: 3000, console: true });
        const third = await start();
        await must("PATCH", third.at, { metadata: { browser_console: false } });
        await waitFor(
          "the page without the script",
          async () => !(await visit(third.url)).includes("_edge"),
          10_000,
        );
      },
    );

    await t.test(
      "another tenant, another sandbox and whoever has no edge's token get nothing in",
      async () => {
        const other = await start();
        const entry = {
          ...{ at: new Date().toISOString(), level: "log", kind: "console", text: "forged", page: null },
          ...{ source: null, line: null, column: null, stack: null, method: null, status: null },
        };
        const batch = (hostname: string, sandboxId: string) => ({
          hostname,
          sandboxId,
          entries: [entry],
          dropped: 0,
        });
        const ofOne = new URL(one.url).hostname;
        assert.equal(await report([batch(ofOne, one.id)], "guessed"), 401);
        assert.equal(await report([batch(ofOne, other.id)]), 200);
        assert.equal(await report([batch("no.such.name", one.id)]), 200);
        assert.ok((await report(Array(101).fill(batch(ofOne, one.id)))) >= 400);
        assert.equal((await say(one.url, [{ level: "log", kind: "console", text: "the last" }])).status, 204);
        await heard(one.at, "the last");
        for (const { at } of [one, other])
          assert.equal(
            (await lines(at)).lines.some((line) => line["text"] === "forged"),
            false,
          );
        assert.equal((await api("GET", `/sandboxes/${crypto.randomUUID()}/console`)).status, 404);
      },
    );
  },
);

/** The first event of a stream that goes on after another one. */
function firstEvent({ key, domain, edge }: Boxes, path: string, after: number): Promise<Row> {
  return new Promise((resolve, reject) => {
    const headers = {
      host: `api.${domain}`,
      authorization: `Bearer ${key}`,
      accept: "text/event-stream",
      "last-event-id": String(after),
    };
    const at = { host: "127.0.0.1", port: edge.port, path: `/api/v1${path}`, headers };
    const sent = request(at, (answer) => {
      let text = "";
      answer.setEncoding("utf8").on("data", (part: string) => {
        text += part;
        const data = /^data: (.*)$/m.exec(text)?.[1];
        if (data === undefined || !text.includes("\n\n")) return;
        answer.destroy();
        resolve(JSON.parse(data) as Row);
      });
    });
    sent.on("error", reject).end();
  });
}
