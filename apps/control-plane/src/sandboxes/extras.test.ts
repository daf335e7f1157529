import assert from "node:assert/strict";
import { once } from "node:events";
import { gunzipSync } from "node:zlib";
import { text } from "node:stream/consumers";
import { Readable } from "node:stream";
import { test } from "node:test";
import { extract } from "tar-stream";
import { WebSocket } from "ws";
import { waitFor } from "@platform/daemon";
import { ask } from "../testing-programs.ts";
import { insideOf, needsGroups, startBoxes, type Boxes, whyNoBoxes } from "../testing-boxes.ts";

type Row = Record<string, unknown>;
const skip = whyNoBoxes() ?? false;

function dial(boxes: Boxes, path: string, protocol?: string): WebSocket {
  const { port } = boxes.edge;
  return new WebSocket(`ws://127.0.0.1:${port}/api/v1${path}`, protocol === undefined ? [] : [protocol], {
    headers: { host: `api.${boxes.domain}:${port}`, authorization: `Bearer ${boxes.key}` },
  });
}

/** What the server said in frames, by type, and how the connection ended. */
function frames(socket: WebSocket) {
  const said: Record<number, string> = {};
  let exit: number | null = null;
  socket.on("message", (data: Buffer) => {
    if (data[0] === 3) exit = data.readUInt32BE(1);
    else said[data[0]!] = (said[data[0]!] ?? "") + data.subarray(1).toString();
  });
  const closed = once(socket, "close") as Promise<[number]>;
  return { said, exit: () => exit, closed };
}
const bytes = (type: number, payload: string | Buffer = "") =>
  Buffer.concat([Buffer.from([type]), Buffer.from(payload)]);

async function namesIn(tar: Buffer): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  const reader = extract();
  reader.on("entry", (header, stream, next) => {
    void text(stream).then((content) => {
      found[header.name] = header.type === "symlink" ? `-> ${header.linkname}` : content;
      next();
    });
  });
  const done = once(reader, "finish");
  Readable.from([tar]).pipe(reader);
  await done;
  return found;
}

test("what goes beyond one sandbox and one command", { skip }, async (t) => {
  const boxes = await startBoxes(t);
  const { must, api } = boxes;
  const id = await boxes.sandbox({ name: "one" });
  const at = `/sandboxes/${id}`;

  await t.test("run answers with the sandbox, the command's end and how long each took", async () => {
    const ran = insideOf<Row>(
      await api("POST", "/sandboxes/run", { command: "echo out; exit 3", size: "xs" }),
      "run",
    );
    assert.ok(ran["id"], "data is the sandbox");
    const whole = await api("POST", "/sandboxes/run", { command: "echo out; exit 3", size: "xs" });
    assert.deepEqual([whole.at("exec", "stdout"), whole.at("exec", "exit_code")], ["out\n", 3]);
    assert.ok(whole.at<number>("timings", "total_ms") >= whole.at<number>("timings", "ready_ms"));
  });

  await t.test(
    "a batch makes its sandboxes, tells of each, and is cancelled only while it runs",
    async () => {
      const made = await api("POST", "/sandboxes/batch", {
        count: 3,
        concurrency: 1,
        size: "xs",
        name_prefix: "many",
        environment: { WORD: "all" },
      });
      assert.deepEqual(
        [made.status, made.at("data", "requested_count"), made.at("data", "concurrency_limit")],
        [202, 3, 1],
      );
      const batch = `/sandboxes/batches/${made.at("data", "id")}`;
      await waitFor("the batch", async () => (await must("GET", batch))["status"] === "completed", 60_000);
      const items = insideOf<Row[]>(await api("GET", `${batch}/items`), "items");
      assert.deepEqual(
        items.map((one) => [one["index"], one["name"], one["ready"]]),
        [
          [0, "many-1", true],
          [1, "many-2", true],
          [2, "many-3", true],
        ],
      );
      const said = await must("POST", `/sandboxes/${String(items[2]!["sandbox_id"])}/exec`, {
        command: "echo $WORD",
      });
      assert.equal(said["stdout"], "all\n");
      const late = await api("POST", `${batch}/cancel`, {});
      assert.deepEqual([late.status, late.at("error", "code")], [409, "BATCH_ALREADY_TERMINAL"]);
      const taken = await api("POST", "/sandboxes/batch", { count: 2, name_prefix: "many" });
      assert.deepEqual([taken.status, taken.at("error", "code")], [409, "NAME_TAKEN"]);
      const other = await api("POST", "/sandboxes/batch", { count: 6, concurrency: 1, size: "xs" });
      const cancelled = `/sandboxes/batches/${other.at("data", "id")}`;
      assert.equal((await api("POST", `${cancelled}/cancel`, {})).status, 200);
      const end = await waitFor(
        "the cancelled batch",
        async () => {
          const now = await must("GET", cancelled);
          return now["status"] === "cancelled" && now;
        },
        60_000,
      );
      assert.ok(Number(end["destroyed_count"]) >= 4, JSON.stringify(end));
    },
  );

  await t.test(
    "a bulk action changes those that it names and says what became of each",
    { skip: needsGroups },
    async () => {
      const rows = insideOf<Row[]>(await api("GET", "/sandboxes?search=many"), "list").map((row) =>
        String(row["id"]),
      );
      assert.equal(rows.length, 3);
      const stranger = "01a206ce-26c5-757a-80fe-2805ae5c8416";
      const pause = await api("POST", "/bulk/sandboxes/pause", { ids: [...rows, stranger] });
      assert.deepEqual([pause.status, pause.at("queued")], [202, 4]);
      const ended = async (job: string) =>
        waitFor(
          "the job",
          async () => {
            const now = await must("GET", `/bulk/jobs/${job}`);
            return now["state"] === "completed" && now;
          },
          60_000,
        );
      const paused = await ended(pause.at("job_id"));
      assert.deepEqual([paused["total"], paused["completed"], paused["failed"]], [4, 3, 1]);
      assert.equal((paused["failures"] as Row[])[0]!["code"], "NOT_FOUND");
      for (const row of rows) assert.equal((await must("GET", `/sandboxes/${row}`))["state"], "paused");
      const removal = await api("POST", "/bulk/sandboxes/delete", {
        filter: { search: "many", state: "paused" },
      });
      assert.equal(removal.at("queued"), 3);
      await ended(removal.at("job_id"));
      assert.deepEqual(insideOf<Row[]>(await api("GET", "/sandboxes?search=many"), "list"), []);
      assert.equal((await api("POST", "/bulk/sandboxes/explode", { ids: rows })).status, 404);
      assert.equal((await api("POST", "/bulk/sandboxes/pause", {})).status, 422);
    },
  );

  await t.test(
    "an export is a whole archive, and no path leads out of the sandbox's own folders",
    async () => {
      await must("POST", `${at}/exec`, {
        command:
          "mkdir -p app/sub && echo a > app/a.txt && echo b > 'app/sub/-b c.txt' && ln -sfn /etc app/link && ln -sfn /etc out",
      });
      const made = insideOf<Row>(
        await api("POST", `${at}/exports`, { paths: ["/workspace/app", "app/a.txt"], label: "both" }),
        "export",
      );
      assert.deepEqual([made["status"], made["label"], made["filename"]], ["ready", "both", "app.tar.gz"]);
      const archive = await ask(
        boxes.edge.port,
        `api.${boxes.domain}:${boxes.edge.port}`,
        new URL(String(made["archive_download_url"])).pathname +
          new URL(String(made["archive_download_url"])).search,
        {
          headers: { authorization: `Bearer ${boxes.key}` },
        },
      );
      assert.equal(archive.headers["content-type"], "application/gzip");
      const found = await namesIn(gunzipSync(archive.bytes));
      assert.equal(found["workspace/app/sub/-b c.txt"], "b\n");
      assert.equal(found["workspace/app/link"], "-> /etc");
      const one = await api("GET", `${at}/exports/download?path=app&filename=x.tar`);
      assert.equal(one.headers["content-type"], "application/x-tar");
      assert.match(one.text, /app\/a\.txt/);
      for (const path of [
        "/etc/passwd",
        "/workspace/../etc",
        "../../etc",
        "/workspace/out/passwd",
        "/",
        "/workspacex",
      ]) {
        const refused = await api("POST", `${at}/exports`, { path });
        assert.deepEqual([refused.status, refused.at("error", "code")], [422, "INVALID_PATH"], path);
        assert.equal(
          (await api("GET", `${at}/exports/download?path=${encodeURIComponent(path)}`)).status,
          422,
          path,
        );
      }
      assert.equal((await api("POST", `${at}/exports`, { path: "none" })).status, 404);
      const artifacts = insideOf<Row[]>(await api("GET", `${at}/artifacts`), "artifacts");
      assert.deepEqual(
        artifacts.map((row) => [row["type"], row["label"]]),
        [["export", "both"]],
      );
    },
  );

  await t.test(
    "the interactive exec carries input, both outputs and the exit code in its frames",
    async () => {
      const socket = dial(
        boxes,
        `${at}/exec?command=${encodeURIComponent("read x; echo got $x $WORD; echo bad >&2; exit 7")}&env=WORD=w`,
        "miosa-exec-v1",
      );
      const seen = frames(socket);
      await once(socket, "open");
      assert.equal(socket.protocol, "miosa-exec-v1");
      socket.send(bytes(0, "line\n"));
      const [code] = await seen.closed;
      assert.deepEqual([seen.said[1], seen.said[2], seen.exit(), code], ["got line w\n", "bad\n", 7, 1000]);
      const sums = dial(boxes, `${at}/exec?command=sort`, "miosa-exec-v1");
      const sorted = frames(sums);
      await once(sums, "open");
      for (const word of ["b\n", "a\n"]) sums.send(bytes(0, word));
      sums.send(bytes(4));
      await sorted.closed;
      assert.deepEqual([sorted.said[1], sorted.exit()], ["a\nb\n", 0]);
      const missing = frames(dial(boxes, `${at}/exec?command=no-such-program&args=x`, "miosa-exec-v1"));
      await missing.closed;
      assert.equal(missing.exit(), 127);
      const plain = await api("GET", `${at}/exec?command=true`);
      assert.deepEqual([plain.status, plain.at("error", "code")], [426, "UPGRADE_REQUIRED"]);
    },
  );

  await t.test("a command ends with its connection, a terminal outlives it and knows its size", async () => {
    const socket = dial(boxes, `${at}/exec?command=${encodeURIComponent("sleep 987654")}`, "miosa-exec-v1");
    await once(socket, "open");
    const runs = async () =>
      String(
        (await must("POST", `${at}/exec`, { command: "pgrep -f '[9]87654' | wc -l" }))["stdout"],
      ).trim() !== "0";
    await waitFor("the command", runs, 10_000);
    socket.close();
    await waitFor("the command's end", async () => !(await runs()), 10_000);

    const terminal = insideOf<Row>(
      await api("POST", `${at}/terminal`, { cols: 100, rows: 30, env: { MARK: "kept" } }),
      "terminal",
    );
    const open = async () => {
      const one = dial(
        boxes,
        new URL(String(terminal["url"])).pathname.replace("/api/v1", ""),
        "miosa-exec-v1",
      );
      const heard = frames(one);
      await once(one, "open");
      return { one, heard };
    };
    const first = await open();
    first.one.send(bytes(0, "stty size; X=$MARK-on\n"));
    await waitFor("the size", () => first.heard.said[1]?.includes("30 100"), 10_000);
    first.one.close();
    await first.heard.closed;
    const second = await open();
    second.one.send(bytes(5, Buffer.from([0, 40, 0, 120])));
    second.one.send(bytes(0, "echo $X; stty size\n"));
    await waitFor(
      "what the shell kept",
      () => second.heard.said[1]?.includes("kept-on") && second.heard.said[1].includes("40 120"),
      10_000,
    );
    assert.equal((await api("DELETE", `${at}/terminal/${String(terminal["id"])}`)).status, 200);
    await second.heard.closed;
    assert.equal((await api("GET", `${at}/terminal/${String(terminal["id"])}`)).status, 404);
  });

  await t.test("a tunnel carries any bytes both ways, and says why there is none", async () => {
    await must("POST", `${at}/fs/write`, {
      path: "/workspace/echo.js",
      content: `require("net").createServer((c) => c.on("data", (d) => c.write(d)).on("end", () => c.end())).listen(7007, "0.0.0.0"); require("net").createServer(() => 0).listen(7008, "127.0.0.1")`,
    });
    await must("POST", `${at}/services`, { name: "echo", command: "node echo.js", port: 7007 });
    await waitFor(
      "the port",
      async () => ((await must("GET", `${at}/ports`))["ports"] as Row[]).length >= 2,
      10_000,
    );
    const socket = dial(boxes, `${at}/tunnel/7007`);
    await once(socket, "open");
    const sent = Buffer.alloc(3 * 1024 * 1024, "0123456789abcdef\0\xff", "latin1");
    const got: Buffer[] = [];
    const all = new Promise<void>((resolve) => {
      let size = 0;
      socket.on("message", (data: Buffer) => {
        got.push(data);
        size += data.length;
        if (size === sent.length) resolve();
      });
    });
    for (let from = 0; from < sent.length; from += 512 * 1024)
      socket.send(sent.subarray(from, from + 512 * 1024));
    await all;
    assert.ok(Buffer.concat(got).equals(sent));
    socket.close();
    for (const [port, reason] of [
      ["7999", "not_listening"],
      ["7008", "bound_to_loopback"],
    ] as const) {
      const refused = dial(boxes, `${at}/tunnel/${port}`);
      const [, response] = (await once(refused, "unexpected-response")) as [
        unknown,
        import("node:http").IncomingMessage,
      ];
      assert.equal(response.statusCode, 409);
      assert.equal(
        (JSON.parse(await text(response)) as { error: { details: Row } }).error.details["reason"],
        reason,
      );
    }
    const ssh = await api("GET", `${at}/ssh-info`);
    assert.deepEqual([ssh.at("available"), ssh.at("reason")], [false, "not_listening"]);
    for (const path of ["ssh-tunnel", "ssh-keys", "ssh-certificates"]) {
      const answer = await api(
        path === "ssh-tunnel" ? "GET" : "POST",
        `${at}/${path}`,
        path === "ssh-tunnel" ? undefined : { public_key: "ssh-ed25519 AAAA me" },
      );
      assert.deepEqual([answer.status, answer.at("error", "code")], [409, "SSH_UNAVAILABLE"], path);
    }
  });
});
