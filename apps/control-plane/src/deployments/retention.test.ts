import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import {
  buildBundle,
  collectGarbage,
  listDigests,
  openArtifactStore,
  verifyBundle,
  type ArtifactStore,
  type Digest,
} from "@platform/bundle";
import { query, queryOne } from "@platform/postgres";
import type { Platform } from "../platform.ts";
import { startTestApi, type TestApi } from "../testing-api.ts";
import { beginNext, enqueue } from "./promotions.ts";
import { archiveAll, neededDigests } from "./retention.ts";
import { loadDeployment, type DeploymentRow } from "./store.ts";

/** What people and reconcilers do, in any order. Numbers choose among what there is. */
type Step =
  | { readonly type: "publish"; readonly app: number; readonly content: number }
  | {
      readonly type: "promote" | "rollback" | "schedule" | "ask" | "pin" | "unpin";
      readonly app: number;
      readonly which: number;
    }
  | { readonly type: "canary" | "finish" | "cancel" | "stop warm" | "delete"; readonly app: number }
  | { readonly type: "time"; readonly days: number }
  | { readonly type: "rules"; readonly last: number; readonly days: number }
  | { readonly type: "collect" };

const app = fc.nat(1);
const which = fc.nat(7);
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ type: fc.constant("publish" as const), app, content: fc.nat(5) }) },
  {
    weight: 8,
    arbitrary: fc.record({
      type: fc.constantFrom("promote", "rollback", "schedule", "ask", "pin", "unpin"),
      app,
      which,
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({ type: fc.constantFrom("canary", "finish", "cancel", "stop warm"), app }),
  },
  { weight: 1, arbitrary: fc.record({ type: fc.constant("delete" as const), app }) },
  {
    weight: 3,
    arbitrary: fc.record({ type: fc.constant("time" as const), days: fc.integer({ min: 1, max: 60 }) }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      type: fc.constant("rules" as const),
      last: fc.integer({ min: 1, max: 4 }),
      days: fc.nat(10),
    }),
  },
  { weight: 5, arbitrary: fc.constant({ type: "collect" as const }) },
);

interface Release {
  readonly id: string;
  readonly digest: Digest;
  readonly versionId: string;
}

/** The history of two deployments, with what must never be taken kept in plain variables beside the database. */
class History {
  readonly #platform: Platform;
  readonly #store: ArtifactStore;
  readonly #bundles: readonly { bundle: Digest; source: Digest }[];
  readonly #tenantId: string;
  readonly #apps: string[] = [];
  readonly releases = new Map<string, Release[]>();
  readonly #pinned = new Set<string>();
  readonly #active = new Map<string, string>();
  readonly #previous = new Map<string, string>();
  /** Release named by a promotion that is not over, by the promotion's id. */
  readonly #named = new Map<string, { app: string; release: string }>();
  readonly #warm = new Map<string, { app: string; release: string }>();
  readonly #deleted = new Set<string>();
  #days = 0;

  constructor(
    platform: Platform,
    store: ArtifactStore,
    bundles: readonly { bundle: Digest; source: Digest }[],
    tenantId: string,
  ) {
    this.#platform = platform;
    this.#store = store;
    this.#bundles = bundles;
    this.#tenantId = tenantId;
  }

  get #pool() {
    return this.#platform.pool;
  }

  async begin(): Promise<void> {
    for (let number = 0; number < 2; number++) {
      const id = randomUUID();
      await this.#pool.query(
        "insert into deployments (id, tenant_id, name, slug) values ($1, $2, 'app', $3)",
        [id, this.#tenantId, `app-${id}`],
      );
      this.#apps.push(id);
      this.releases.set(id, []);
    }
  }

  async take(one: Step): Promise<void> {
    if (one.type === "time") return void (this.#days += one.days);
    if (one.type === "rules") return this.#setRules(one.last, one.days);
    if (one.type === "collect") return this.#collect();
    const id = this.#apps[one.app]!;
    if (this.#deleted.has(id)) return;
    switch (one.type) {
      case "publish":
        return this.#publish(id, this.#bundles[one.content]!);
      case "pin":
      case "unpin":
        return this.#pin(id, one.which, one.type === "pin");
      case "promote":
      case "rollback":
      case "schedule":
      case "ask":
        return this.#enqueue(id, one.which, one.type);
      case "canary":
        return void (await beginNext(this.#platform, await this.#row(id)));
      case "finish":
        return this.#finish(id);
      case "cancel":
        return this.#cancel(id);
      case "stop warm":
        return this.#stopWarm(id);
      case "delete":
        return this.#delete(id);
    }
  }

  #row = async (id: string): Promise<DeploymentRow> => (await loadDeployment(this.#pool, id))!;

  /** `ready` only: what the rules took is no choice any more. */
  async #choose(id: string, which: number): Promise<Release | null> {
    const rows = await query<{ id: string }>(
      this.#pool,
      "select id from releases where deployment_id = $1 and state = 'ready' order by created_at, id",
      [id],
    );
    const chosen = rows.length === 0 ? null : rows[which % rows.length]!;
    return this.releases.get(id)!.find((release) => release.id === chosen?.id) ?? null;
  }

  async #publish(id: string, { bundle, source }: { bundle: Digest; source: Digest }): Promise<void> {
    // As a build does: what is there already is put again, so that no collection takes it meanwhile.
    await this.#renew(bundle);
    const [versionId, releaseId, buildId] = [randomUUID(), randomUUID(), randomUUID()];
    const at = new Date(Date.now() + this.#days * 86_400_000);
    const number = this.releases.get(id)!.length + 1;
    await this.#pool.query(
      "insert into versions (id, deployment_id, version_number, kind, state, build_id, created_at) values ($1, $2, $3, 'static', 'ready', $4, $5)",
      [versionId, id, number, buildId, at],
    );
    await this.#pool.query(
      `insert into releases (id, deployment_id, deployment_version_id, kind, state, artifact_sha256, build_id, ready_at, created_at)
       values ($1, $2, $3, 'static', 'ready', $4, $5, $6, $6)`,
      [releaseId, id, versionId, bundle.slice(7), buildId, at],
    );
    await this.#pool.query(
      `insert into builds (id, tenant_id, deployment_id, version_id, release_id, state, request, actor, source_digest, bundle_digest, created_at)
       values ($1, $2, $3, $4, $5, 'succeeded', '{}', '{}', $6, $7, $8)`,
      [buildId, this.#tenantId, id, versionId, releaseId, source, bundle, at],
    );
    this.releases.get(id)!.push({ id: releaseId, digest: bundle, versionId });
  }

  /** Builds the bundle again where a collection took it. */
  async #renew(bundle: Digest): Promise<void> {
    const index = this.#bundles.findIndex((one) => one.bundle === bundle);
    await makeBundle(this.#store, index);
  }

  async #pin(id: string, which: number, isPinned: boolean): Promise<void> {
    const release = await this.#choose(id, which);
    if (!release) return;
    await this.#pool.query("update releases set pinned_at = case when $2 then now() end where id = $1", [
      release.id,
      isPinned,
    ]);
    if (isPinned) this.#pinned.add(release.id);
    else this.#pinned.delete(release.id);
  }

  async #enqueue(id: string, which: number, how: "promote" | "rollback" | "schedule" | "ask"): Promise<void> {
    const release = await this.#choose(id, which);
    if (!release || [...this.#named.values()].filter((one) => one.app === id).length >= 10) return;
    await this.#pool.query("update deployments set settings = $2 where id = $1", [
      id,
      { approval_required: how === "ask" },
    ]);
    const promotion = await enqueue(this.#platform, id, {
      id: randomUUID(),
      releaseId: release.id,
      kind: how === "rollback" ? "rollback" : "promote",
      options: how === "schedule" ? { at: new Date(Date.now() + 86_400_000).toISOString() } : {},
      caller: { keyId: randomUUID(), keyName: "history" },
    });
    this.#named.set(promotion.id, { app: id, release: release.id });
    await this.#forgetOver();
  }

  /** A rollback cancels others: the model reads from the row that it is over, never what may be taken. */
  async #forgetOver(): Promise<void> {
    for (const id of [...this.#named.keys()]) {
      const row = await queryOne<{ state: string }>(
        this.#pool,
        "select state from promotions where id = $1",
        [id],
      );
      if (["succeeded", "failed", "cancelled"].includes(row!.state)) this.#named.delete(id);
    }
  }

  async #finish(id: string): Promise<void> {
    const running = await queryOne<{ id: string; release_id: string }>(
      this.#pool,
      "select id, release_id from promotions where deployment_id = $1 and state = 'running'",
      [id],
    );
    if (!running) return;
    const release = this.releases.get(id)!.find((one) => one.id === running.release_id)!;
    const before = this.#active.get(id) ?? null;
    await this.#pool.query(
      `update deployments set active_release_id = $2, active_version_id = $3, desired_release_id = $2,
         previous_release_id = case when active_release_id is distinct from $2 then active_release_id else previous_release_id end, state = 'running' where id = $1`,
      [id, release.id, release.versionId],
    );
    await this.#pool.query("update promotions set state = 'succeeded', finished_at = now() where id = $1", [
      running.id,
    ]);
    await this.#pool.query("update versions set promoted_at = clock_timestamp() where id = $1", [
      release.versionId,
    ]);
    if (before && before !== release.id) this.#previous.set(id, before);
    this.#active.set(id, release.id);
    const instance = randomUUID();
    await this.#pool.query(
      "insert into instances (id, deployment_id, release_id, box_key, config_version, state) values ($1, $2, $3, $4, 1, 'healthy')",
      [instance, id, release.id, `in-${instance}`],
    );
    this.#warm.set(instance, { app: id, release: release.id });
    await this.#forgetOver();
  }

  async #cancel(id: string): Promise<void> {
    await this.#pool.query(
      `update promotions set state = 'cancelled' where id = (select id from promotions where deployment_id = $1 and state not in ('succeeded', 'failed', 'cancelled') limit 1)`,
      [id],
    );
    await this.#pool.query("update deployments set desired_release_id = active_release_id where id = $1", [
      id,
    ]);
    await this.#forgetOver();
  }

  async #stopWarm(id: string): Promise<void> {
    const found = [...this.#warm].find(([, one]) => one.app === id);
    if (!found) return;
    await this.#pool.query("update instances set state = 'destroyed' where id = $1", [found[0]]);
    this.#warm.delete(found[0]);
  }

  async #delete(id: string): Promise<void> {
    await this.#pool.query(
      "update promotions set state = 'cancelled' where deployment_id = $1 and finished_at is null",
      [id],
    );
    await this.#pool.query("update instances set state = 'destroyed' where deployment_id = $1", [id]);
    await this.#pool.query("update deployments set state = 'deleted', desired = 'deleted' where id = $1", [
      id,
    ]);
    this.#deleted.add(id);
    for (const map of [this.#named, this.#warm])
      for (const [key, one] of map) if (one.app === id) map.delete(key);
  }

  #setRules = async (last: number, days: number): Promise<void> => {
    await this.#pool.query("update tenants set policy = $2 where id = $1", [
      this.#tenantId,
      { retention: { keep_last: last, keep_days: days } },
    ]);
  };

  /** Releases that nothing may take, each with why. */
  protectedReleases(): Map<string, string> {
    const all = new Map<string, string>();
    for (const { release } of this.#named.values()) all.set(release, "an open promotion names it");
    for (const { release } of this.#warm.values()) all.set(release, "it has an instance");
    for (const release of this.#pinned) all.set(release, "it is pinned");
    for (const release of this.#previous.values()) all.set(release, "it served before");
    for (const release of this.#active.values()) all.set(release, "it serves");
    for (const id of this.#deleted) for (const release of this.releases.get(id)!) all.delete(release.id);
    return all;
  }

  async #collect(): Promise<void> {
    await archiveAll(this.#pool, new Date(Date.now() + this.#days * 86_400_000));
    await collectGarbage(this.#store, (await neededDigests(this.#pool)) as Digest[], { graceMs: -60_000 });
    const must = this.protectedReleases();
    const rows = await query<{ id: string; state: string; deployment_id: string }>(
      this.#pool,
      "select id, state, deployment_id from releases",
    );
    const ofThis = rows.filter((row) => this.releases.has(row.deployment_id));
    for (const row of ofThis) {
      const why = must.get(row.id);
      if (why) assert.equal(row.state, "ready", `${row.id} was archived although ${why}`);
    }
    const needed = ofThis.filter((row) => row.state === "ready" && !this.#deleted.has(row.deployment_id));
    const digests = new Set(
      needed.map((row) => this.releases.get(row.deployment_id)!.find((one) => one.id === row.id)!.digest),
    );
    // Also those whose blobs another, archived release shared.
    for (const digest of digests) await verifyBundle(this.#store, digest);
  }
}

/** Six small apps, some files of which are the same: their bundles share blobs. */
async function makeBundle(store: ArtifactStore, number: number): Promise<Digest> {
  const folder = await mkdtemp(join(tmpdir(), "retention-app-"));
  try {
    await mkdir(join(folder, "shared"));
    await writeFile(join(folder, "shared", "same.txt"), `shared by ${number % 2 === 0 ? "even" : "odd"}`);
    await writeFile(join(folder, "index.html"), `<p>${number}`);
    const built = await buildBundle(store, folder, {
      ...{ kind: "static", startCommand: null, port: null, healthCheckPath: null, env: [] },
    });
    return built.digest as Digest;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function startHistory(api: TestApi, store: ArtifactStore): Promise<History> {
  await api.platform.pool.query("truncate deployments cascade");
  await api.platform.pool.query("update tenants set policy = '{}'");
  const bundles = [];
  for (let number = 0; number < 6; number++) {
    const source = (await store.put(Buffer.from(`source ${number % 3}`))).digest;
    bundles.push({ bundle: await makeBundle(store, number), source });
  }
  const history = new History(api.platform, store, bundles, api.tenantId);
  await history.begin();
  return history;
}

test("no collection takes what serves, served, runs, is pinned, or is named by an open promotion, nor a blob of it", async (t) => {
  const api = await startTestApi(t, { handlers: () => [] });
  const folder = await mkdtemp(join(tmpdir(), "retention-"));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const store = await openArtifactStore(folder);
  const runs = Number(process.env["HISTORIES"] ?? 15);
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 10, maxLength: 60 }), async (steps) => {
      const history = await startHistory(api, store);
      for (const one of steps) await history.take(one);
      await history.take({ type: "rules", last: 1, days: 0 });
      await history.take({ type: "time", days: 100 });
      await history.take({ type: "collect" });
      await history.take({ type: "collect" });
    }),
    { numRuns: runs, endOnFailure: false },
  );
});

test("what the rules let go is archived, and the files of its own are gone", async (t) => {
  const api = await startTestApi(t, { handlers: () => [] });
  const folder = await mkdtemp(join(tmpdir(), "retention-"));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const store = await openArtifactStore(folder);
  const history = await startHistory(api, store);
  for (const content of [0, 1, 2, 3]) {
    await history.take({ type: "publish", app: 0, content });
    await history.take({ type: "promote", app: 0, which: content });
    await history.take({ type: "canary", app: 0 });
    await history.take({ type: "finish", app: 0 });
    for (let stops = 0; stops < 2; stops++) await history.take({ type: "stop warm", app: 0 });
  }
  const before = (await listDigests(store)).length;
  await history.take({ type: "rules", last: 1, days: 0 });
  await history.take({ type: "time", days: 1 });
  await history.take({ type: "collect" });
  const rows = await query<{ state: string }>(
    api.platform.pool,
    "select r.state from releases r join versions v on v.id = r.deployment_version_id order by v.version_number",
  );
  assert.deepEqual(
    rows.map(({ state }) => state),
    ["archived", "archived", "ready", "ready"],
  );
  assert.ok((await listDigests(store)).length < before);
});
