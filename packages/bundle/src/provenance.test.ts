import assert from "node:assert/strict";
import { createHash, generateKeyPairSync, verify } from "node:crypto";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import {
  collectGarbage,
  createProvenance,
  type Digest,
  listDigests,
  openArtifactStore,
  readAttestations,
  signStatement,
  SignatureInvalidError,
  storeAttestation,
  verifyEnvelope,
} from "./index.ts";
import { temporaryFolder } from "./testing-folder.ts";

const digest = (text: string): Digest => `sha256:${createHash("sha256").update(text).digest("hex")}`;

const statement = createProvenance({
  bundleDigest: digest("bundle"),
  sourceDigest: digest("source"),
  buildCommand: "npm run build",
  run: { kind: "dynamic", startCommand: "node server.js", port: 3000, healthCheckPath: "/" },
  toolchain: { node: "24.0.0" },
  startedAt: new Date(1000),
  finishedAt: new Date(2000),
  builderId: "https://builder.example/1",
  buildType: "https://builder.example/build/v1",
  invocationId: "https://builder.example/runs/1",
  sbomDigest: digest("sbom"),
  actor: "user:1",
  env: [{ name: "API_URL", scope: "build", valueSha256: digest("value").slice(7) }],
});

test("a signed statement is believed only with its key and only as signed", () => {
  const { privateKey, publicKey } = generateKeyPairSync("ed25519");
  const envelope = signStatement(statement, privateKey);
  assert.deepEqual(verifyEnvelope(envelope, publicKey), statement);

  const other = generateKeyPairSync("ed25519").publicKey;
  assert.throws(() => verifyEnvelope(envelope, other), SignatureInvalidError);
  const forged = JSON.stringify({
    ...statement,
    subject: [{ name: "bundle", digest: { sha256: "0".repeat(64) } }],
  });
  const payload = Buffer.from(forged).toString("base64");
  assert.throws(() => verifyEnvelope({ ...envelope, payload }, publicKey), SignatureInvalidError);
  assert.throws(() => verifyEnvelope({ ...envelope, signatures: [] }, publicKey), SignatureInvalidError);
  const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 });
  assert.throws(() => signStatement(statement, rsa.privateKey), SignatureInvalidError);
});

test("the signature is over the encoding of the envelope's specification", () => {
  const { privateKey, publicKey } = generateKeyPairSync("ed25519");
  const envelope = signStatement(statement, privateKey);
  const payload = Buffer.from(envelope.payload, "base64");
  const type = "application/vnd.in-toto+json";
  const signed = Buffer.concat([Buffer.from(`DSSEv1 28 ${type} ${payload.length} `), payload]);
  assert.equal(envelope.payloadType, type);
  assert.ok(verify(null, signed, publicKey, Buffer.from(envelope.signatures[0]!.sig, "base64")));
});

test("attestations stay with their bundle, and go when it goes", async (t) => {
  const store = await openArtifactStore(await temporaryFolder(t));
  const { privateKey } = generateKeyPairSync("ed25519");
  const bundle = (await store.put(Buffer.from("some bundle"))).digest;
  const envelope = signStatement(statement, privateKey);
  await storeAttestation(store, bundle, envelope);
  await storeAttestation(store, bundle, envelope);
  assert.deepEqual(await readAttestations(store, bundle), [envelope]);
  await collectGarbage(store, [bundle], { graceMs: -1000 });
  assert.deepEqual(await readAttestations(store, bundle), [envelope]);
  await collectGarbage(store, [], { graceMs: -1000 });
  assert.deepEqual(await readAttestations(store, bundle), []);
  assert.deepEqual(await listDigests(store), []);
  assert.deepEqual(await readdir(join(store.folder, "refs", "attestations")), []);
});
