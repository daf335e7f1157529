import assert from "node:assert/strict";
import { test } from "node:test";
import { startOwnPlatform } from "./own-platform.ts";

const mib = 1024 ** 2;
const memoryBytes = 192 * mib;

test("a build past its memory or its time is refused with the kernel's figures; a plain kill is not called that", async (t) => {
  const platform = await startOwnPlatform({
    BUILD_MEMORY_BYTES: String(memoryBytes),
    BUILD_TIMEOUT_MS: "20000",
  });
  t.after(() => platform.stop());
  const id = await platform.sandbox("limits", { "index.html": "<p>hello</p>" });
  const { id: deploymentId } = (await platform.must("POST", "/deployments", { name: "limits" })) as {
    id: string;
  };
  const publish = async (build_command: string) => {
    const answer = await platform.api("POST", `/deployments/${deploymentId}/publish`, {
      ...{ source_sandbox_id: id, build_command, output_path: "." },
    });
    assert.equal(answer.status, 422, JSON.stringify(answer.body).slice(0, 1000));
    return answer.body["error"] as { code: string; message: string; details: Record<string, unknown> };
  };
  const hog = `node -e "const all = []; for (;;) all.push(Buffer.alloc(8 * 1024 * 1024, 1))"`;
  const oom = await publish(hog);
  assert.equal(oom.code, "BUILD_OUT_OF_MEMORY", JSON.stringify(oom));
  assert.equal(oom.details["limit_bytes"], memoryBytes);
  assert.ok(Number(oom.details["peak_bytes"]) > memoryBytes / 2, JSON.stringify(oom.details));
  // By the kernel's log, which not every machine lets its programs read.
  assert.ok(
    [null, "node", "MainThread"].includes(oom.details["process"] as string | null),
    JSON.stringify(oom),
  );

  const killed = await publish("sh -c 'kill -9 $$'");
  assert.equal(killed.code, "STATIC_BUILD_FAILED", JSON.stringify(killed));

  const late = await publish("echo begun; sleep 600");
  assert.equal(late.code, "BUILD_TIMEOUT", JSON.stringify(late));
  assert.deepEqual(late.details["log_tail"] instanceof Array, true);
});
