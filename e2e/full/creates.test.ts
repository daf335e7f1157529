import assert from "node:assert/strict";
import { randomInt } from "node:crypto";
import { after, before, describe, test, type TestContext } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { Api } from "./kill/api.ts";
import { boxOwners, remnants } from "./kill/machine.ts";
import { makeFolders, removeFolders, Server } from "./kill/server.ts";
import { waitFor } from "./kill/wait.ts";

/** A run with less than a thousand says so in its name. */
const count = Number(process.env["CREATES"] ?? 1000);
const workers = 8;
/** Two busy cores take about four seconds for each, kills included. */
const mostMs = Math.max(1_800_000, count * 8_000);
const mib = 1024 * 1024;
/** The shape of `xs`. */
const limits = { memoryBytes: 2048 * mib, cpuMillis: 1000, maxProcesses: 4096, diskBytes: 10_240 * mib };
const settings = {
  HOST_POOL_MIN: "3",
  HOST_POOL_MAX: "5",
  HOST_POOL_SHAPES: JSON.stringify([{ template: "host", limits }]),
};

const points = {
  host: [
    ...["before-claim", "after-driver", "after-config", "after-record"].map((name) => `host.pool.${name}`),
    ...["before-state", "after-state", "after-start", "before-ready", "after-ready"].map(
      (name) => `host.box.${name}`,
    ),
    ...["delete-after-kill", "delete-before-forget"].map((name) => `host.box.${name}`),
  ],
  "control-plane": ["claimed", "box-started", "before-running", "before-delete", "before-destroyed"].map(
    (name) => `control-plane.sandbox.${name}`,
  ),
} as const;

interface Sandbox {
  readonly id: string;
  readonly state: string;
  readonly boot_path: string | null;
  readonly tags: unknown;
}

/** Programs die all the time: a call may need many tries, each of which waits for its own outcome. */
const patient = (server: Server) => new Api(server.apiUrl, server.apiKey, 300_000);

const pick = <T>(values: readonly T[]): T => values[randomInt(values.length)]!;

describe(`${count} creates with programs killed at random`, { skip: count === 0 && "CREATES is 0" }, () => {
  const folders = { ...makeFolders(), settings };
  const owners = new Set<number>();
  let server: Server;
  before(async () => {
    server = await Server.start(folders);
  });
  after(() => removeFolders(folders, server ?? null));

  test("none is lost, none doubled, none orphaned", { timeout: mostMs }, async (t) => {
    const made = new Map<number, Sandbox>();
    const done = new AbortController();
    const killer = killAtRandom(server, () => made.size, done.signal);
    const noter = noteOwners(folders.data, owners, done.signal);
    let next = 0;
    const work = async () => {
      for (let n = next++; n < count; n = next++) made.set(n, await createOne(server, n));
    };
    try {
      await Promise.all(Array.from({ length: workers }, work));
    } finally {
      done.abort();
      await noter;
      await killer.catch(() => undefined); // Its failure is told below.
    }
    const kills = await killer;
    report(t, made, kills);
    await assertCounted(server, made);
    await destroyAll(server);
    await server.stop();
    assert.deepEqual(remnants(folders.data, owners), []);
  });
});

/** One create with one key, however often it has to be repeated; two of three are destroyed at once. */
async function createOne(server: Server, n: number): Promise<Sandbox> {
  const body = { size: "xs", tags: { n: String(n) } };
  const sandbox = await patient(server).post<Sandbox>("/sandboxes?wait=60", body, `create-${n}`);
  const seen = await waitFor(
    `sandbox ${n} to run`,
    async () => {
      const now = await patient(server).get<Sandbox>(`/sandboxes/${sandbox.id}`);
      assert.notEqual(now.state, "error", JSON.stringify(now));
      return now.state === "running" && now;
    },
    120_000,
    200,
  );
  if (n % 3 !== 0) await patient(server).delete(`/sandboxes/${sandbox.id}`);
  else if (n >= 3 * workers) await destroyOldest(server);
  return seen;
}

/** Runs until its machine has removed it, which a killed program delays: no other worker asks for it meanwhile. */
const leaving = new Set<string>();

/** Keeps the machine from filling up; which one goes does not matter. */
async function destroyOldest(server: Server): Promise<void> {
  const alive = await patient(server).get<Sandbox[]>("/sandboxes?limit=100&sort=created-asc");
  const oldest = alive.find(({ id, state }) => state === "running" && !leaving.has(id));
  if (alive.length <= 2 * workers || !oldest) return;
  leaving.add(oldest.id);
  await patient(server).delete(`/sandboxes/${oldest.id}`);
}

/** @returns how often each program was killed, and where */
async function killAtRandom(
  server: Server,
  made: () => number,
  signal: AbortSignal,
): Promise<Map<string, number>> {
  const kills = new Map<string, number>();
  while (!signal.aborted) {
    // By what was made, not by time: a busy machine would else be kept from making anything.
    const next = made() + randomInt(2, 16);
    while (made() < next && !signal.aborted) await delay(50, undefined, { signal }).catch(() => undefined);
    await delay(randomInt(2_000), undefined, { signal }).catch(() => undefined); // Over: the loop ends.
    if (signal.aborted) break;
    const program = pick(["host", "control-plane"] as const);
    const running = server.program(program);
    if (!running) continue;
    const before = server.kills(program);
    const point = randomInt(3) === 0 ? "anywhere" : pick(points[program]);
    if (point === "anywhere") process.kill(running.pid, "SIGKILL");
    else server.arm(point);
    const fired = await waitFor(
      "the kill",
      () => (server.kills(program) > before ? true : signal.aborted && "over"),
      20_000,
    ).catch(() => false);
    if (fired !== true) {
      server.disarm(point);
      continue;
    }
    kills.set(point, (kills.get(point) ?? 0) + 1);
    await waitFor(`${program} to run again`, () => server.program(program), 60_000);
  }
  return kills;
}

/** Remembers every uid that a box was given, so that its processes can be looked for at the end. */
async function noteOwners(data: string, owners: Set<number>, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    for (const uid of boxOwners(data)) owners.add(uid);
    await delay(100, undefined, { signal }).catch(() => undefined); // Over: the loop ends.
  }
}

function report(
  t: TestContext,
  made: ReadonlyMap<number, Sandbox>,
  kills: ReadonlyMap<string, number>,
): void {
  const paths = [...made.values()].map(({ boot_path: path }) => path);
  const fromPool = paths.filter((path) => path === "pool").length;
  const total = [...kills.values()].reduce((sum, times) => sum + times, 0);
  t.diagnostic(`${made.size} creates, ${fromPool} of them from the pool; ${total} kills`);
  for (const [point, times] of [...kills].sort()) t.diagnostic(`${times} × ${point}`);
}

async function listed(server: Server, filter: string): Promise<Sandbox[]> {
  const found: Sandbox[] = [];
  for (let page = 1; ; page++) {
    const rows = await patient(server).get<Sandbox[]>(`/sandboxes?limit=100&page=${page}&${filter}`);
    found.push(...rows);
    if (rows.length < 100) return found;
  }
}

/** Each create has one sandbox, and no sandbox is there that nobody created. */
async function assertCounted(server: Server, made: ReadonlyMap<number, Sandbox>): Promise<void> {
  const rows = [
    ...(await listed(server, "sort=created-asc&include_errored=true")),
    ...(await listed(server, "state=destroyed&sort=created-asc")),
  ];
  const byNumber = new Map<string, string[]>();
  for (const { id, tags } of rows) {
    const { n = "none" } = (tags ?? {}) as { n?: string };
    byNumber.set(n, [...(byNumber.get(n) ?? []), id]);
  }
  const wrong = [...made].filter(([n, { id }]) => {
    const ids = byNumber.get(String(n)) ?? [];
    return ids.length !== 1 || ids[0] !== id;
  });
  assert.deepEqual(wrong, [], "each create has its one sandbox");
  assert.equal(rows.length, made.size, "no sandbox was made that nobody asked for");
}

async function destroyAll(server: Server): Promise<void> {
  for (const { id } of await listed(server, "sort=created-asc&include_errored=true")) {
    await patient(server).delete(`/sandboxes/${id}`);
  }
  assert.deepEqual(await listed(server, "sort=created-asc&include_errored=true"), []);
}
