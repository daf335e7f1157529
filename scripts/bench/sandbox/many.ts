import { readdirSync, readFileSync } from "node:fs";
import type { OwnPlatform } from "../../../e2e/full/own-platform.ts";
import { summarise, timed, type Row } from "../timing.ts";
import type { BareTools } from "./bare.ts";
import { firstCommand, type Created } from "./boot.ts";

/** Creates all at once; each is timed from the first request on. */
export async function measureBurst(
  platform: OwnPlatform,
  driver: string,
  bare: BareTools,
  count: number,
): Promise<Row> {
  const theirs: number[] = [];
  for (let round = 0; round < 5; round++) theirs.push(await timed(() => bare.bubblewrap()));
  const made: string[] = [];
  const create = async () => {
    const { id } = (await platform.must("POST", "/sandboxes?wait=120", { size: "xs" })) as unknown as Created;
    made.push(id);
  };
  const ours = await Promise.all(Array.from({ length: count }, () => timed(create)));
  for (const id of made) {
    const { state } = await platform.must("GET", `/sandboxes/${id}`);
    if (state !== "running") throw new Error(`a sandbox of the burst is ${String(state)}`);
  }
  await removeAll(platform, made);
  return {
    ...{ name: `${driver}: ${count} creates at once → running`, ours: summarise(ours) },
    ...{ peerName: "`bwrap` with the same agent, one after the other", peer: summarise(theirs) },
  };
}

/** @returns a sentence: memory of each of many sandboxes that nobody uses */
export async function measureIdle(
  platform: OwnPlatform,
  driver: string,
  bare: BareTools,
  count: number,
): Promise<string> {
  const made: string[] = [];
  const before = new Set(readdirSync("/proc"));
  const worker = async () => {
    while (made.length < count) {
      made.push("");
      made[made.length - 1] = (await firstCommand(platform, { size: "xs" })).id;
    }
  };
  await Promise.all(Array.from({ length: 4 }, worker));
  const inBoxes = newProcesses(before).filter((pid) => /boxes-[0-9a-f]{12}\//.test(textOf(pid, "cgroup")));
  const each = sumOfPss(inBoxes) / count;
  await removeAll(platform, made.filter(Boolean));
  const bareBoxes = await Promise.all([1, 2, 3, 4, 5].map(() => bare.startAgent()));
  const bareEach = sumOfPss(bareBoxes.flatMap(({ pid }) => withChildren(pid))) / bareBoxes.length;
  for (const box of bareBoxes) await box.end();
  const mib = (bytes: number) => (bytes / 2 ** 20).toFixed(1);
  return `${driver}: ${count} idle sandboxes take ${mib(each)} MiB each (proportional set size of all their processes, after one command); \`bwrap\` with the same agent ${mib(bareEach)} MiB, of five.`;
}

async function removeAll(platform: OwnPlatform, ids: string[]): Promise<void> {
  const left = [...ids];
  const worker = async () => {
    for (let id = left.pop(); id !== undefined; id = left.pop())
      await platform.must("DELETE", `/sandboxes/${id}`);
  };
  await Promise.all(Array.from({ length: 4 }, worker));
}

const newProcesses = (before: ReadonlySet<string>) =>
  readdirSync("/proc").filter((name) => /^\d+$/.test(name) && !before.has(name));

function textOf(pid: string, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, "utf8");
  } catch {
    return ""; // It ended meanwhile.
  }
}

/** @returns bytes */
const sumOfPss = (pids: readonly string[]): number =>
  pids.reduce(
    (sum, pid) => sum + Number(/^Pss:\s+(\d+)/m.exec(textOf(pid, "smaps_rollup"))?.[1] ?? 0) * 1024,
    0,
  );

function withChildren(pid: number): string[] {
  const children = textOf(String(pid), `task/${pid}/children`).trim().split(" ").filter(Boolean);
  return [String(pid), ...children.flatMap((child) => withChildren(Number(child)))];
}
