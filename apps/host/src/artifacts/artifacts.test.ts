import assert from "node:assert/strict";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { HostError } from "@platform/host-api";
import { guestOf, spec, startTestHost, whyNoBoxes } from "../testing.ts";

const skip = whyNoBoxes() ?? false;
const hasCode = (code: string) => (error: unknown) => error instanceof HostError && error.code === code;

test("a frozen folder fills a new box with the same files, writable there", { skip }, async (t) => {
  const host = await startTestHost(t);
  await host.client.putBox("box-first", spec());
  await guestOf(t, host, "box-first").exec(
    "mkdir -p sub node_modules; echo hi > sub/a; echo no > node_modules/b",
  );
  const frozen = await host.client.freeze("box-first", { exclude: ["node_modules"] });
  assert.equal(frozen.files, 1);
  assert.equal((await host.client.freeze("box-first", { exclude: ["node_modules"] })).digest, frozen.digest);
  await host.client.putBox("box-second", spec({ content: { type: "source", digest: frozen.digest } }));
  const second = guestOf(t, host, "box-second");
  assert.equal(
    (await second.exec("cat sub/a; echo more >> sub/a; find . -type f | sort; wc -l < sub/a")).stdout,
    "hi\n./sub/a\n2\n",
  );
});

test("a bundle has one digest for one content and starts a box of its own", { skip }, async (t) => {
  const host = await startTestHost(t);
  await host.client.putBox("box-build", spec());
  await guestOf(t, host, "box-build").exec("mkdir dist; echo '<p>hi' > dist/index.html");
  const request = {
    ...{
      path: "/workspace/dist",
      kind: "static" as const,
      startCommand: null,
      port: null,
      healthCheckPath: null,
    },
    env: [{ name: "API_KEY", scope: "run" as const, required: true }],
  };
  const bundled = await host.client.bundle("box-build", request);
  assert.equal(bundled.hasIndexHtml, true);
  assert.equal((await host.client.bundle("box-build", request)).digest, bundled.digest);
  await host.client.putBox("box-release", spec({ content: { type: "bundle", digest: bundled.digest } }));
  assert.equal((await guestOf(t, host, "box-release").exec("cat index.html")).stdout, "<p>hi\n");
});

test(
  "a bundle that holds a known secret is refused, and the answer does not repeat it",
  { skip },
  async (t) => {
    const host = await startTestHost(t);
    await host.client.putBox("box-leak", spec());
    const value = "hunter2-hunter2";
    const encoded = Buffer.from(value).toString("base64");
    await guestOf(t, host, "box-leak").exec(`mkdir dist; printf 'a\\nkey = ${encoded}\\n' > dist/index.html`);
    const request = { path: "/workspace/dist", kind: "static" as const, startCommand: null, port: null };
    await assert.rejects(
      host.client.bundle("box-leak", {
        ...{ ...request, healthCheckPath: null, env: [] },
        secrets: [{ name: "API_KEY", value }],
      }),
      (error) => {
        assert.ok(error instanceof HostError);
        const { reason, findings } = error.details as { reason: string; findings: Record<string, unknown>[] };
        assert.equal(reason, "SECRET_FOUND");
        const { file, line, name, encoding } = findings[0]!;
        assert.deepEqual([file, line, name, encoding], ["index.html", 2, "API_KEY", "base64"]);
        assert.ok(!JSON.stringify([error.message, error.details]).includes(encoded.slice(0, 8)));
        return true;
      },
    );
  },
);

test("links out of the workspace are never followed", { skip }, async (t) => {
  const host = await startTestHost(t);
  await host.client.putBox("box-sly", spec());
  await guestOf(t, host, "box-sly").exec("ln -s /etc dist; mkdir real; ln -s /etc/passwd real/stolen");
  for (let times = 0; times < 10; times++) {
    await assert.rejects(host.client.freeze("box-sly", { path: "/workspace/dist" }), hasCode("INVALID"));
  }
  await assert.rejects(host.client.freeze("box-sly", { path: "/workspace/real" }), hasCode("INVALID"));
  await assert.rejects(host.client.freeze("box-sly", { path: "/workspace/../etc" }), hasCode("INVALID"));
  await assert.rejects(host.client.freeze("box-sly", { path: "/workspace/none" }), hasCode("INVALID"));
});

test("a snapshot outlives its box and fills another one, workspace and home", { skip }, async (t) => {
  const host = await startTestHost(t);
  await host.client.putBox("box-old", spec());
  await guestOf(t, host, "box-old").exec("echo work > a; echo home > ~/b; chmod 600 a");
  const info = await host.client.putSnapshot("snapshot-one", "box-old");
  assert.deepEqual(await host.client.putSnapshot("snapshot-one", "box-old"), info);
  assert.deepEqual(await host.client.snapshots(), [info]);
  await host.client.deleteBox("box-old");
  const content = { type: "snapshot" as const, snapshotKey: "snapshot-one" };
  await host.client.putBox("box-new", spec({ content }));
  const seen = await guestOf(t, host, "box-new").exec("cat a ~/b; echo again >> a; stat -c %a a");
  assert.equal(seen.stdout, "work\nhome\n600\n");
  await host.client.deleteSnapshot("snapshot-one");
  await host.client.deleteSnapshot("snapshot-one");
  assert.deepEqual(await readdir(join(host.dataDir, "snapshots")), []);
  await assert.rejects(host.client.putBox("box-late", spec({ content })), hasCode("NOT_FOUND"));
  assert.equal(await host.client.box("box-late"), null);
});

for (const point of ["host.freeze.after-copy", "host.bundle.before-answer"]) {
  test(
    `a daemon that dies at ${point} leaves a running box and an answer that repeats`,
    { skip },
    async (t) => {
      const host = await startTestHost(t);
      await host.client.putBox("box-torn", spec());
      await guestOf(t, host, "box-torn").exec("echo hi > index.html");
      const request = {
        kind: "static" as const,
        startCommand: null,
        port: null,
        healthCheckPath: null,
        env: [],
      };
      const call = async () =>
        point.includes("bundle")
          ? host.client.bundle("box-torn", { path: "/workspace", ...request })
          : host.client.freeze("box-torn", {});
      const before = await call();
      await host.armFault(point);
      await assert.rejects(call(), hasCode("UNREACHABLE"));
      await host.kill("SIGKILL");
      await host.start();
      assert.equal((await guestOf(t, host, "box-torn").exec("cat index.html")).stdout, "hi\n");
      assert.equal((await call()).digest, before.digest);
    },
  );
}
