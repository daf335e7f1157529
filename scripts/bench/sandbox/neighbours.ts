import type { OwnPlatform } from "../../../e2e/full/own-platform.ts";
import { summarise, type Row } from "../timing.ts";
import { firstCommand } from "./boot.ts";

/** What a loud box does, in the background; each goes on until its box is deleted. */
const attacks: readonly (readonly [name: string, command: string])[] = [
  ["eight busy loops", "for i in 1 2 3 4 5 6 7 8; do (while :; do :; done) & done"],
  ["a fork bomb", "bomb() { bomb | bomb & }; bomb"],
  [
    "a memory bomb, again and again",
    `while :; do node -e 'const a=[];for(;;)a.push(Buffer.alloc(1<<24,1))'; done`,
  ],
  ["a disk filler, again and again", "while :; do dd if=/dev/zero of=fill bs=1M; rm -f fill; done"],
  ["files without end", "i=0; while :; do i=$((i+1)); : > f$i; done"],
  ["a log flood", "yes a line that nobody reads"],
];

/** A second of one thread: hashing, allocation and small synced files, as a small app does. */
const work = `
  const { createHash } = require("node:crypto");
  const fs = require("node:fs");
  const startedAt = performance.now();
  let text = "x";
  for (let i = 0; i < 60000; i++) text = createHash("sha256").update(text + i).digest("hex");
  for (let i = 0; i < 200; i++) JSON.parse(JSON.stringify(Array.from({ length: 500 }, (_, n) => ({ n, text }))));
  for (let i = 0; i < 20; i++) fs.writeFileSync("/workspace/n" + i, text.repeat(100));
  console.log(performance.now() - startedAt);
`;

const rounds = 3;

/**
 * How long a quiet box takes for the same work alone and beside a loud one, by turns.
 *
 * @returns a row for each attack; a ratio up to 1.25 is a speed of 80 % or more
 */
export async function measureNeighbours(platform: OwnPlatform, driver: string): Promise<Row[]> {
  const quiet = await firstCommand(platform, { size: "xs" });
  const command = `node -e '${work}'`;
  const once = async () => Number(await platform.exec(quiet.id, command));
  await once();
  const rows: Row[] = [];
  try {
    for (const [name, attack] of attacks) {
      const [alone, beside] = [[], []] as [number[], number[]];
      for (let round = 0; round < rounds; round++) {
        alone.push(await once());
        const loud = await firstCommand(platform, { size: "xs" });
        const started = await platform.must("POST", `/sandboxes/${loud.id}/processes`, { command: attack });
        if (!started) throw new Error(`${name} did not start`);
        try {
          await once();
          beside.push(await once());
        } finally {
          await platform.must("DELETE", `/sandboxes/${loud.id}`);
        }
      }
      rows.push({
        name: `${driver}: a second of work beside ${name}`,
        ours: summarise(beside),
        peerName: "the same alone",
        peer: summarise(alone),
      });
    }
  } finally {
    await platform.must("DELETE", `/sandboxes/${quiet.id}`);
  }
  return rows;
}
