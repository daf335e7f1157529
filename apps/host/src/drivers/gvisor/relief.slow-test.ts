import assert from "node:assert/strict";
import { test } from "node:test";
import { waitFor } from "@platform/daemon";
import { guestOf, service, spec, startTestHost, whyNoBoxes, whyNoRuntime } from "../../testing.ts";

const skip =
  whyNoBoxes() ?? whyNoRuntime() ?? (process.getuid?.() === 0 ? false : "memory is limited by root alone");
const mib = 1024 * 1024;
const limits = { memoryBytes: 320 * mib, cpuMillis: 1000, maxProcesses: 64, diskBytes: 96 * mib };
const hogs = {
  node: `node --max-old-space-size=4096 -e 'const a=[];for(;;)a.push(Buffer.alloc(1<<24,1))'`,
  tail: "tail /dev/zero",
  python: "python3 -c 'a=[]\nwhile True: a.append(bytearray(1<<22))'",
};

for (const [name, hog] of Object.entries(hogs)) {
  test(
    `${name} beyond its box's memory is counted, and never leaves the box at a standstill`,
    { skip },
    async (t) => {
      const host = await startTestHost(t, { driver: "gvisor" });
      const { client } = host;
      const key = "box-hungry";
      await client.putBox(key, spec({ limits }));
      const guest = guestOf(t, host, key);
      await guest.services.put(service("web", "exec sleep 1000"));
      const { pid } = await guest.ready();
      const ended = await guest.exec(hog, { timeoutMs: 240_000 }).catch(() => null);
      assert.notEqual(ended?.exitCode, 0);
      // Asked at once, as a build does that wants to know why its command was killed.
      const atOnce = (await client.oom(key).catch(() => null))?.oomKills ?? 0;
      const seen = await waitFor(
        "the verdict",
        async () => {
          const box = await client.box(key);
          if (box?.state === "failed") return box.failure?.reason;
          const isSaid = box?.notices.some(({ type }) => type === "oom");
          const stats = await client.stats(key).catch(() => null); // It may just be ending.
          const ready = await guest.ready().catch(() => null);
          const isAsBefore = ready?.pid === pid && stats?.memoryLimitBytes === limits.memoryBytes;
          return isSaid && isAsBefore && (stats.oomKills ?? 0) > 0 ? "counted" : undefined;
        },
        120_000,
      );
      t.diagnostic(String(seen));
      // A box whose own kernel was refused memory may end with the program; it says so.
      if (seen !== "counted") return assert.equal(seen, "oom", JSON.stringify(await client.box(key)));
      if (ended) assert.ok(atOnce > 0, "the count came later than the end");
    },
  );
}

test("a box that many programs fill at once goes on or ends, and never stands still", { skip }, async (t) => {
  const host = await startTestHost(t, { driver: "gvisor" });
  const { client } = host;
  await client.putBox("box-filled", spec({ limits }));
  const guest = guestOf(t, host, "box-filled");
  await guest
    .exec("for n in 1 2 3 4 5 6; do tail /dev/zero & done; wait", { timeoutMs: 120_000 })
    .catch(() => null); // The box may be gone.
  const seen = await waitFor(
    "an answer or an end",
    async () => {
      const box = await client.box("box-filled");
      if (box?.state === "failed") return box.failure?.reason;
      const [isReady, stats] = [await guest.ready().catch(() => null), await client.stats("box-filled")];
      return isReady && (stats?.oomKills ?? 0) > 0 ? "oom" : undefined;
    },
    60_000,
  );
  assert.equal(seen, "oom", JSON.stringify(await client.box("box-filled")));
});
