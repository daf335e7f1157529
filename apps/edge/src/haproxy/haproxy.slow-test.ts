import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { waitFor } from "@platform/daemon";
import { Rig } from "../testing/rig.ts";
import { findProgram } from "./index.ts";

const skip = findProgram("haproxy") ? false : "haproxy is not installed";
/** Suites of the edge that say the same about both data planes. */
const suites = ["drain.test.ts", "proxy/headers.test.ts", "proxy/service.test.ts"];

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
