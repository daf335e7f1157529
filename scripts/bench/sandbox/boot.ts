import type { OwnPlatform } from "../../../e2e/full/own-platform.ts";
import { until } from "../peers.ts";
import { summarise, timed, type Row } from "../timing.ts";
import { bareExec, hostRecords, type BareTools } from "./bare.ts";

export interface Created {
  readonly id: string;
  readonly boot_path: string | null;
  readonly boot_ms: number | null;
}

/** Create, proved running, and one command's output, through the public API. */
export async function firstCommand(platform: OwnPlatform, body: object): Promise<Created> {
  const made = (await platform.must("POST", "/sandboxes?wait=true", body)) as unknown as Created;
  const path = `/sandboxes/${made.id}/exec`;
  const { stdout } = await platform.must("POST", path, { command: "echo $((6*7))" });
  if (stdout !== "42\n") throw new Error(`the sandbox printed ${JSON.stringify(stdout)}`);
  return made;
}

/** Cold starts beside the bare tool's own, by turns, and then round trips of commands. */
export async function measureCold(
  platform: OwnPlatform,
  driver: string,
  bare: BareTools,
  rounds: number,
): Promise<Row[]> {
  const tool = driver === "gvisor" ? () => bare.gvisor() : () => bare.bubblewrap();
  const peerName =
    driver === "gvisor"
      ? "`runsc do` until Node's first output"
      : "`bwrap` with the same agent until its first command";
  const [ours, host, theirs]: [number[], number[], number[]] = [[], [], []];
  for (let round = 0; round < rounds; round++) {
    theirs.push(await timed(tool));
    let made: Created | null = null;
    ours.push(await timed(async () => (made = await firstCommand(platform, {}))));
    host.push(made!["boot_ms"] ?? Number.NaN);
    await platform.must("DELETE", `/sandboxes/${made!["id"]}`);
  }
  const peer = summarise(theirs);
  return [
    { name: `${driver}: create → first command, cold`, ours: summarise(ours), peerName, peer },
    {
      name: `${driver}: the host's part of it, boot until the agent answers`,
      ours: summarise(host),
      peerName,
      peer,
    },
    await measureExec(platform, driver, rounds * 3),
  ];
}

/** Creates that find a box of the pool: each waits until there is one, so that none is cold. */
export async function measurePool(
  platform: OwnPlatform,
  driver: string,
  bare: BareTools,
  rounds: number,
): Promise<Row[]> {
  const tool = driver === "gvisor" ? () => bare.gvisor() : () => bare.bubblewrap();
  const [api, ours, host, theirs]: number[][] = [[], [], [], []];
  for (let round = 0; round <= rounds; round++) {
    await until(async () => hostRecords(platform.dataDir).some(({ phase }) => phase === "waiting"));
    theirs!.push(await timed(tool));
    let made: Created | null = null;
    const running = await timed(async () => {
      made = (await platform.must("POST", "/sandboxes?wait=true", {})) as unknown as Created;
    });
    const { id, boot_path: path, boot_ms: ms } = made! as Created;
    const command = await timed(() => platform.must("POST", `/sandboxes/${id}/exec`, { command: "echo 42" }));
    await platform.must("DELETE", `/sandboxes/${id}`);
    // The first one of a server's life loads code.
    if (path !== "pool" || round === 0) continue;
    api!.push(running);
    ours!.push(running + command);
    host!.push(ms ?? Number.NaN);
  }
  const row = (name: string, samples: readonly number[]): Row => ({
    ...{ name: `${driver}: ${name}`, ours: summarise(samples), peer: summarise(theirs!) },
    peerName: "the bare tool's start, as above",
  });
  return [
    row("claim from the pool, the host's part", host!),
    row("create → proved running, from the pool", api!),
    row("create → first command, from the pool", ours!),
  ];
}

async function measureExec(platform: OwnPlatform, driver: string, rounds: number): Promise<Row> {
  const { id } = await firstCommand(platform, {});
  const peer = bareExec(platform.dataDir, id);
  const [ours, theirs]: [number[], number[]] = [[], []];
  for (let round = 0; round < rounds; round++) {
    theirs.push(await timed(peer.run));
    ours.push(await timed(() => platform.must("POST", `/sandboxes/${id}/exec`, { command: "true" })));
  }
  await platform.must("DELETE", `/sandboxes/${id}`);
  const name = `${driver}: round trip of a command`;
  return { name, ours: summarise(ours), peerName: peer.name, peer: summarise(theirs) };
}
