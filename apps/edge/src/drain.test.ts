import assert from "node:assert/strict";
import { test } from "node:test";
import type { ServerResponse } from "node:http";
import { waitFor } from "@platform/daemon";
import { Rig } from "./testing/rig.ts";

test("on SIGTERM a request in flight is finished and the program exits 0", async (t) => {
  const rig = await Rig.start();
  t.after(() => rig.stop());
  let waiting: ServerResponse | undefined;
  const app = await rig.app((_req, res) => (waiting = res));
  await rig.publish({ "drain.clinic.test": app.target });
  const answer = rig.fetch("drain.clinic.test", "/", { headers: { connection: "keep-alive" } });
  const response = await waitFor("the request", () => waiting, 5_000);
  rig.edge.child.kill("SIGTERM");
  await waitFor(
    "no new connection",
    () =>
      rig.fetch("x.test").then(
        () => false,
        () => true,
      ),
    5_000,
  );
  response.end("finished");
  const { body, headers } = await answer;
  assert.equal(body, "finished");
  assert.equal(headers.connection, "close");
  assert.equal(await rig.edge.exited, 0);
});
