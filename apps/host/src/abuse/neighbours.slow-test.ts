import assert from "node:assert/strict";
import { test } from "node:test";
import type { BoxSpec } from "@platform/host-api";
import { guestOf, service, spec, startTestHost } from "../testing.ts";
import { driver, mib, skip } from "./scene.ts";

/** Of the speed that a box has alone. */
const leastShare = 0.8;
/** With the loud box standing still and running, by turns, so that what else the machine does slows both. */
const turns = 7;
const mostTurns = 21;
const limits: BoxSpec["limits"] = {
  ...{ memoryBytes: 384 * mib, cpuMillis: 1000, maxProcesses: 128, diskBytes: 256 * mib },
};

const bombs: Record<string, string> = {
  "busy loops": "for i in 1 2 3 4 5 6 7 8; do (while :; do :; done) & done; wait",
  "a bomb of processes": "b(){ while :; do b & done; }; b & exec sleep 1000",
  "a bomb of memory": `while :; do node -e 'const a=[];for(;;)a.push(Buffer.alloc(1<<24,1))'; done`,
  "a filler of its disk": "while :; do dd if=/dev/zero of=fill bs=1M; rm -f fill; done",
  "a maker of files": "while :; do i=0; while [ $i -lt 5000 ]; do i=$((i+1)); : > f$i; done; rm -f f*; done",
  "a flood of log lines": "exec yes a line that nobody reads",
};

const median = (values: readonly number[]) => values.toSorted((a, b) => a - b)[values.length >> 1] ?? NaN;

/** Hashing, allocation and small files, as a small app does. Prints milliseconds. */
const work = `
const { createHash } = require("node:crypto");
const fs = require("node:fs");
const startedAt = performance.now();
let text = "x";
for (let i = 0; i < 150000; i++) text = createHash("sha256").update(text + i).digest("hex");
for (let i = 0; i < 400; i++) JSON.parse(JSON.stringify(Array.from({ length: 500 }, (_, n) => ({ n, text }))));
for (let i = 0; i < 20; i++) fs.writeFileSync("/workspace/n" + i, text.repeat(100));
console.log(performance.now() - startedAt);
`;

test(
  "a neighbour keeps four fifths of its speed, whatever a box does",
  { skip, timeout: 1_800_000 },
  async (t) => {
    const host = await startTestHost(t, { driver });
    const { client } = host;
    const { isolation } = await client.putBox("box-quiet", spec({ limits }));
    const lacking = isolation?.missing.filter((name) => name.endsWith(" limit")) ?? [];
    if (lacking.length > 0) return t.skip(`boxes have no ${lacking.join(", ")} here`);
    const quiet = guestOf(t, host, "box-quiet");
    await quiet.writeFile("/workspace/work.cjs", work);
    const sample = async () => {
      const { stdout, stderr } = await quiet.exec("node work.cjs", { timeoutMs: 120_000 });
      const ms = Number(stdout);
      assert.ok(ms > 0, stderr);
      return ms;
    };
    await sample();
    for (const [name, command] of Object.entries(bombs)) {
      await t.test(name, async () => {
        const bomb = service("bomb", command, "always");
        await client.putBox("box-loud", spec({ limits, services: [bomb] }));
        const alone: number[] = [];
        const beside: number[] = [];
        const share = () => median(alone) / median(beside);
        try {
          while (alone.length < turns || (alone.length < mostTurns && share() < leastShare)) {
            await client.pause("box-loud");
            alone.push(await sample());
            await client.resume("box-loud");
            // What the host does about a loud box begins with its next look.
            await sample();
            beside.push(await sample());
          }
          const [mine, theirs] = [median(alone).toFixed(0), median(beside).toFixed(0)];
          t.diagnostic(`${(100 * share()).toFixed(0)} % beside ${name}: ${theirs} ms, alone ${mine} ms`);
          assert.ok(share() >= leastShare, `${mine} ms alone, ${theirs} ms beside ${name}`);
        } finally {
          await client.deleteBox("box-loud");
        }
      });
    }
  },
);
