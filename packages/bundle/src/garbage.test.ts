import assert from "node:assert/strict";
import { test } from "node:test";
import { type ArtifactStore, collectGarbage, type Digest, listDigests, openArtifactStore } from "./index.ts";
import { temporaryFolder } from "./testing-folder.ts";

/** A repeatable sequence of numbers from 0 to below 1 (mulberry32), so that a failure can be replayed. */
function createRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

interface Graph {
  /** What each blob leads to, itself included: the model the store is compared with. */
  reach: Map<Digest, Set<Digest>>;
}

async function buildGraph(store: ArtifactStore, random: () => number): Promise<Graph> {
  const reach: Graph["reach"] = new Map();
  const pick = (from: Digest[]) => from[Math.floor(random() * from.length)]!;
  const put = async (content: string, children: Digest[]) => {
    const { digest } = await store.put(Buffer.from(content));
    reach.set(digest, new Set([digest, ...children.flatMap((child) => [...reach.get(child)!])]));
    return digest;
  };
  const leaves: Digest[] = [];
  for (let at = 0; at < 6; at++) leaves.push(await put(`leaf ${random()}`, []));
  const nodes: Digest[] = [];
  for (let at = 0; at < 6; at++) {
    const children = [pick(leaves), pick(leaves)];
    const [config, layer] = children.map((digest) => ({ digest }));
    nodes.push(await put(JSON.stringify({ schemaVersion: 2, config, layers: [layer], at }), children));
  }
  for (let at = 0; at < 2; at++) {
    const children = [pick(nodes), pick(nodes)];
    const manifests = children.map((digest) => ({ digest }));
    nodes.push(await put(JSON.stringify({ schemaVersion: 2, manifests, at }), children));
  }
  return { reach };
}

test("a collection removes exactly what no kept digest leads to, for many random graphs", async (t) => {
  const folder = await temporaryFolder(t);
  for (let seed = 1; seed <= 12; seed++) {
    const random = createRandom(seed);
    const store = await openArtifactStore(`${folder}/${seed}`);
    const { reach } = await buildGraph(store, random);
    let alive = new Set(reach.keys());
    for (let round = 0; round < 3; round++) {
      const keep = [...alive].filter(() => random() < 0.25);
      const wanted = new Set(keep.flatMap((digest) => [...reach.get(digest)!]));
      // A negative grace puts every blob in the past, whatever the clock's resolution.
      const { removed, missing } = await collectGarbage(store, keep, { graceMs: -60_000 });
      assert.deepEqual(await listDigests(store), [...wanted].sort(), `seed ${seed}, round ${round}`);
      assert.equal(removed.length, alive.size - wanted.size);
      assert.deepEqual(missing, []);
      alive = wanted;
    }
  }
});

test("a young blob stays, since its manifest may be on its way, and absent digests are reported", async (t) => {
  const store = await openArtifactStore(await temporaryFolder(t));
  const young = (await store.put(Buffer.from("layer"))).digest;
  const absent: Digest = `sha256:${"0".repeat(64)}`;
  const { removed, missing } = await collectGarbage(store, [absent]);
  assert.deepEqual(removed, []);
  assert.deepEqual(missing, [absent]);
  assert.equal(await store.has(young), true);
});
