import assert from "node:assert/strict";
import { test } from "node:test";
import { startBoxes, whyNoBoxes } from "../testing-boxes.ts";
import { statusOf } from "./git.ts";

type Row = Record<string, unknown>;
const skip = whyNoBoxes() ?? false;

test("git's status is read whatever the names of files are", () => {
  const status = statusOf(
    "# branch.oid 0a1\0# branch.head main\0# branch.ab +2 -1\x001 .M N... 100644 100644 100644 a b with space.ts\x002 R. N... 100644 100644 100644 a b R100 new name\0old name\0? -odd\0",
  );
  assert.deepEqual(
    [status.branch, status.sha, status.ahead, status.behind, status.clean],
    ["main", "0a1", 2, 1, false],
  );
  assert.deepEqual(status.files, [
    { path: "with space.ts", index: ".", worktree: "M" },
    { path: "new name", index: "R", worktree: ".", renamed_from: "old name" },
    { path: "-odd", index: "?", worktree: "?" },
  ]);
});

test("work on the files of a sandbox", { skip }, async (t) => {
  const boxes = await startBoxes(t);
  const { must, api } = boxes;
  const id = await boxes.sandbox({ agents_md: false });
  const at = `/sandboxes/${id}`;
  const write = (path: string, content: string) => must("POST", `${at}/fs/write`, { path, content });
  const read = async (path: string) => (await must("GET", `${at}/fs/read?path=${path}`))["content"];
  await write("src/a.ts", "const one = 1;\nconst two = one + one;\n");
  await write("src/b.md", "one $& two\n");
  await write("node_modules/x/c.ts", "const one = 1;\n");
  await must("POST", `${at}/exec`, {
    command: "printf 'one\\0two' > src/bin.dat; ln -s /etc src/out; chmod 755 src/a.ts",
  });

  await t.test(
    "text is found with its place, by globs, up to a bound, and never by following links",
    async () => {
      const found = await must("POST", `${at}/search`, { pattern: "one", context: 1 });
      assert.deepEqual(
        (found["matches"] as Row[]).map((one) => [one["path"], one["line"], one["column"]]),
        [
          ["/workspace/src/a.ts", 1, 7],
          ["/workspace/src/a.ts", 2, 13],
          ["/workspace/src/a.ts", 2, 19],
          ["/workspace/src/b.md", 1, 1],
        ],
      );
      assert.deepEqual((found["matches"] as Row[])[0]!["after"], ["const two = one + one;"]);
      assert.deepEqual([found["files_searched"], found["files_skipped"], found["truncated"]], [2, 1, false]);
      const only = await must("POST", `${at}/search`, {
        pattern: "ONE\\b",
        regex: true,
        case_sensitive: false,
        include: ["**/*.md"],
      });
      assert.equal(only["count"], 1);
      const bounded = await must("POST", `${at}/search`, { pattern: "one", max_results: 2, hidden: true });
      assert.deepEqual([bounded["count"], bounded["truncated"]], [2, true]);
      for (const [body, status, code] of [
        [{ pattern: "(", regex: true }, 422, "VALIDATION_FAILED"],
        [{ pattern: "x", path: "/workspace/none" }, 404, "FILE_NOT_FOUND"],
      ] as const) {
        const refused = await api("POST", `${at}/search`, body);
        assert.deepEqual([refused.status, refused.at("error", "code")], [status, code]);
      }
    },
  );

  await t.test("replacing tells before it does, does all or nothing, and keeps a file's mode", async () => {
    const dry = await must("POST", `${at}/replace`, {
      pattern: "one",
      replacement: "$&!",
      include: ["src/**"],
      dry_run: true,
    });
    assert.deepEqual([dry["count"], dry["dry_run"]], [4, true]);
    assert.equal(await read("src/b.md"), "one $& two\n");
    const wrong = await api("POST", `${at}/replace`, {
      pattern: "one",
      replacement: "uno",
      expected_count: 3,
    });
    assert.deepEqual(
      [wrong.status, wrong.at("error", "code"), wrong.at("error", "details", "count")],
      [409, "COUNT_MISMATCH", 4],
    );
    assert.equal(await read("src/b.md"), "one $& two\n");
    await must("POST", `${at}/replace`, {
      pattern: "one",
      replacement: "$&!",
      include: ["*.md"],
      expected_count: 1,
    });
    assert.equal(await read("src/b.md"), "$&! $& two\n");
    await must("POST", `${at}/replace`, {
      pattern: "const (\\w+)",
      replacement: "let $1",
      regex: true,
      include: ["*.ts"],
    });
    assert.equal(await read("src/a.ts"), "let one = 1;\nlet two = one + one;\n");
    assert.match(
      String((await must("POST", `${at}/exec`, { command: "stat -c %a src/a.ts" }))["stdout"]),
      /^755/,
    );
  });

  await t.test("a patch is applied whole or not at all, with the hunk that does not fit", async () => {
    const patch = [
      "--- a/src/a.ts",
      "+++ b/src/a.ts",
      "@@ -1,2 +1,3 @@",
      " let one = 1;",
      "+let half = one / 2;",
      " let two = one + one;",
      "--- /dev/null",
      "+++ b/src/new.ts",
      "@@ -0,0 +1 @@",
      "+fresh",
      "--- a/src/b.md",
      "+++ /dev/null",
      "@@ -1 +0,0 @@",
      "-$&! $& two",
      "",
    ].join("\n");
    const dry = await must("POST", `${at}/patch`, { patch, dry_run: true });
    assert.deepEqual(
      (dry["files"] as Row[]).map((one) => one["action"]),
      ["modified", "created", "deleted"],
    );
    await must("POST", `${at}/patch`, { patch });
    assert.equal(await read("src/a.ts"), "let one = 1;\nlet half = one / 2;\nlet two = one + one;\n");
    assert.equal(await read("src/new.ts"), "fresh\n");
    assert.equal((await api("GET", `${at}/fs/read?path=src/b.md`)).status, 404);
    const bad = [
      "--- a/src/new.ts",
      "+++ b/src/new.ts",
      "@@ -1 +1 @@",
      "-fresh",
      "+stale",
      "--- a/src/a.ts",
      "+++ b/src/a.ts",
      "@@ -1,1 +1,1 @@",
      "-let none = 1;",
      "+let some = 1;",
      "",
    ].join("\n");
    const refused = await api("POST", `${at}/patch`, { patch: bad });
    assert.deepEqual([refused.status, refused.at("error", "code")], [409, "PATCH_REJECTED"]);
    const rejects = refused.at<Row[]>("error", "details", "rejects");
    assert.deepEqual(
      [rejects.length, rejects[0]!["path"], rejects[0]!["reason"]],
      [1, "/workspace/src/a.ts", "does_not_fit"],
    );
    assert.match(String(rejects[0]!["hunk"]), /-let none = 1;/);
    assert.equal(await read("src/new.ts"), "fresh\n");
    const out = await api("POST", `${at}/patch`, {
      patch: "--- a/../../etc/x\n+++ b/../../etc/x\n@@ -0,0 +1 @@\n+x\n",
    });
    assert.deepEqual([out.status, out.at("error", "code")], [422, "INVALID_PATH"]);
  });

  await t.test("git is told in words of its own and answers in data", async () => {
    if ((await must("POST", `${at}/exec`, { command: "command -v git" }))["exit_code"] !== 0)
      return t.skip("the box has no git");
    const none = await api("GET", `${at}/git/status`);
    assert.deepEqual([none.status, none.at("error", "code")], [409, "GIT_FAILED"]);
    await write(".gitignore", "node_modules\n");
    const first = await must("POST", `${at}/git/commit`, { message: "First -m 'quoted'\n\nbody" });
    assert.deepEqual([first["committed"], String(first["sha"]).length], [true, 40]);
    assert.equal((await must("POST", `${at}/git/commit`, { message: "again" }))["reason"], "nothing_changed");
    await write("src/new.ts", "changed\n");
    const status = await must("GET", `${at}/git/status`);
    assert.deepEqual(
      [status["branch"], status["clean"], (status["files"] as Row[])[0]!["path"]],
      ["main", false, "src/new.ts"],
    );
    assert.match(String((await must("GET", `${at}/git/diff`))["diff"]), /-fresh\n\+changed/);
    assert.deepEqual(await must("POST", `${at}/git/branch`, { name: "idea" }), {
      name: "idea",
      created: true,
    });
    await must("POST", `${at}/git/commit`, { message: "Second" });
    const log = await must<Row[]>("GET", `${at}/git/log`);
    assert.deepEqual(
      log.map((one) => one["subject"]),
      ["Second", "First -m 'quoted'"],
    );
    assert.equal(
      (await must<Row[]>("GET", `${at}/git/branches`)).find((one) => one["current"])?.["name"],
      "idea",
    );
    const cloned = await must("POST", `${at}/git/clone`, {
      url: "file:///workspace",
      path: "/home/user/copy",
      branch: "main",
    });
    assert.equal(cloned["sha"], first["sha"]);
    assert.equal((await api("POST", `${at}/git/branch`, { name: "--force" })).status, 422);
    assert.equal((await api("POST", `${at}/git/clone`, { url: "--upload-pack=x" })).status, 422);
  });

  await t.test("cells of code share what they define, and say what went wrong", async () => {
    const run = (code: string, more: Row = {}) => must("POST", `${at}/code/run`, { code, ...more });
    const first = await run("x = 20\nprint('half', x)\nx * 2 + 2");
    assert.deepEqual(
      [first["ok"], first["stdout"], first["result"], first["language"]],
      [true, "half 20\n", "42", "python"],
    );
    assert.equal((await run("x + 1"))["result"], "21");
    const other = await run("x", { context: "other" });
    assert.deepEqual([other["ok"], (other["error"] as Row)["name"]], [false, "NameError"]);
    assert.match(String(other["stderr"]), /line 1[\s\S]*NameError: name 'x' is not defined\n$/);
    assert.equal((await run("const n = 2; n * 2", { language: "javascript" }))["result"], "4");
    const late = await run("import time; time.sleep(600)", { timeout: 1 });
    assert.deepEqual(
      [late["ok"], late["timed_out"], (late["error"] as Row)["name"]],
      [false, true, "TimeoutError"],
    );
    assert.equal((await run("x"))["result"], "20");
    const contexts = async (query = "") =>
      (await must("GET", `${at}/code/contexts${query}`))["contexts"] as string[];
    assert.deepEqual((await contexts("?language=python")).sort(), ["default", "other"]);
    await must("DELETE", `${at}/code/contexts/other`);
    assert.deepEqual(await contexts("?language=python"), ["default"]);
    assert.equal((await api("DELETE", `${at}/code/contexts/other`)).status, 404);
    await must("DELETE", `${at}/code`);
    assert.deepEqual(await contexts(), []);
    assert.equal((await run("x"))["ok"], false);
    assert.equal((await api("POST", `${at}/code/run`, { code: "1", language: "cobol" })).status, 422);
  });
});
