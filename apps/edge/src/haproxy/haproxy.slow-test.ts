import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { buildBundle, openArtifactStore } from "@platform/bundle";
import { waitFor } from "@platform/daemon";
import { Rig } from "../testing/rig.ts";
import { findProgram } from "./index.ts";

const skip = findProgram("haproxy") ? false : "haproxy is not installed";
/** Suites of the edge that say the same about both data planes. */
const suites = ["drain.test.ts", "proxy/headers.test.ts", "proxy/service.test.ts", "static/static.test.ts"];

for (const suite of suites)
  test(`the suite ${suite} passes with HAProxy in front`, { skip, timeout: 600_000 }, () => {
    const { PATH, HOME, TMPDIR } = process.env;
    const run = spawnSync(process.execPath, ["--test", join(import.meta.dirname, "..", suite)], {
      env: { PATH, HOME, TMPDIR, EDGE_TEST_DATA_PLANE: "haproxy" },
      encoding: "utf8",
      timeout: 590_000,
    });
    assert.equal(run.status, 0, run.stdout.slice(-4_000));
  });

test(
  "a hot host is answered past the Node edge, until its route changes",
  { skip, timeout: 120_000 },
  async (t) => {
    const rig = await Rig.start({ EDGE_DATA_PLANE: "haproxy" });
    t.after(() => rig.stop());
    const first = await rig.app((req, res) => res.end(`first ${String(req.headers["x-forwarded-for"])}`));
    const second = await rig.app((_req, res) => res.end("second"));
    await rig.publish({ "app.clinic.test": first.target });
    assert.equal((await rig.fetch("app.clinic.test")).body, "first 127.0.0.1");
    // A frozen Node edge answers nothing; what still comes is HAProxy's.
    await waitFor(
      "HAProxy to know the host",
      async () => {
        rig.edge.child.kill("SIGSTOP");
        const answer = await Promise.race([
          rig.fetch("app.clinic.test").catch(() => null),
          new Promise<null>((resolve) => setTimeout(() => resolve(null), 200)),
        ]);
        rig.edge.child.kill("SIGCONT");
        return answer?.body === "first 127.0.0.1";
      },
      60_000,
      500,
    );
    await rig.publish({ "app.clinic.test": second.target });
    for (let i = 0; i < 20; i++) assert.equal((await rig.fetch("app.clinic.test")).body, "second");
  },
);

test(
  "files come out of HAProxy's memory as the Node edge gives them",
  { skip, timeout: 180_000 },
  async (t) => {
    const rig = await Rig.start({ EDGE_DATA_PLANE: "haproxy" });
    t.after(() => rig.stop());
    const host = "site.clinic.test";
    const serve = async (word: string) => {
      const folder = await mkdtemp(join(tmpdir(), "edge-files-"));
      t.after(() => rm(folder, { recursive: true, force: true }));
      await mkdir(join(folder, "assets"));
      await writeFile(join(folder, "index.html"), `<p>${word}</p>`.repeat(200));
      await writeFile(join(folder, "assets", "app-4f3a9c1b.js"), `"${word}";`.repeat(200));
      const store = await openArtifactStore(join(rig.folder, "artifacts"));
      const declaration = { kind: "static" as const, startCommand: null, port: null, healthCheckPath: null };
      const { digest } = await buildBundle(store, folder, { ...declaration, env: [] });
      return { type: "static" as const, digest, spaFallback: true };
    };
    const [first, second] = [await serve("first"), await serve("second")];
    const seen = async (path: string, headers: Record<string, string> = {}) => {
      const { status, headers: all, body } = await rig.fetch(host, path, { headers });
      const { connection: _, "keep-alive": __, "transfer-encoding": ___, ...rest } = all;
      return { status, headers: rest, body };
    };
    /** Nobody but HAProxy can answer while the Node edge stands still. */
    const frozen = async <T>(work: () => Promise<T>) => {
      rig.edge.child.kill("SIGSTOP");
      try {
        return await Promise.race([
          work().catch(() => null),
          new Promise<null>((resolve) => setTimeout(() => resolve(null), 300)),
        ]);
      } finally {
        rig.edge.child.kill("SIGCONT");
      }
    };
    const asked: readonly (readonly [string, Record<string, string>])[] = [
      ["/", {}],
      ["/", { "accept-encoding": "gzip" }],
      ["/assets/app-4f3a9c1b.js", {}],
      ["/assets/app-4f3a9c1b.js?v=1", { "accept-encoding": "br" }],
    ];
    await rig.publish({ [host]: first });
    for (const [path, headers] of asked) {
      const kept = async () => {
        const direct = await seen(path, headers);
        const memory = await frozen(() => seen(path, headers));
        return memory ? { direct, memory } : undefined;
      };
      const { direct, memory } = await waitFor(`${path} in memory`, kept, 60_000, 200);
      assert.deepEqual(memory, direct);
      assert.deepEqual(
        [memory.status, memory.headers["content-encoding"]],
        [200, headers["accept-encoding"]],
      );
      const immutable = "public, max-age=31536000, immutable";
      assert.equal(memory.headers["cache-control"], path === "/" ? "no-cache" : immutable);
      const tag = { ...headers, "if-none-match": direct.headers["etag"] as string };
      assert.equal((await frozen(() => seen(path, tag)))?.status, 304);
    }
    const html = { accept: "text/html", "sec-fetch-mode": "navigate" };
    assert.equal((await seen("/patients", html)).status, 200);
    assert.equal((await seen("/patients", { accept: "*/*" })).status, 404, "no page in place of a script");
    assert.equal((await seen("/", { range: "bytes=0-4" })).status, 206);
    assert.equal((await seen("/", { "x-edge-fill": "x" })).headers["x-edge-cache-control"], undefined);
    await rig.publish({ [host]: second });
    for (const [path, headers] of asked.filter(([, { "accept-encoding": coded }]) => !coded))
      for (let i = 0; i < 5; i++) assert.match((await seen(path, headers)).body, /second/);
    await rig.publish({ [host]: first });
    for (let i = 0; i < 5; i++) assert.match((await seen("/")).body, /first/);
  },
);
