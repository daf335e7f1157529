import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { openAuthority } from "@platform/certificates";
import { CertificateUpdate, openCertificate } from "@platform/edge-api";
import { startTestApi } from "../testing-api.ts";
import { certificateHandlers, registerCertificateFeed, warnOfExpiry } from "./index.ts";

const edgeToken = "edge-token-of-the-test-00001";

async function start(t: TestContext) {
  const folder = await mkdtemp(join(tmpdir(), "upload-test-"));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const authority = await openAuthority(folder, "A company");
  const api = await startTestApi(t, {
    handlers: (platform) => certificateHandlers(platform),
    register: (app, platform) =>
      registerCertificateFeed(app, platform, { edgeToken, acme: null, assertEdge: () => undefined }),
  });
  const upload = (certificate: string, key: string, as?: string) =>
    api.call("POST", "/certificates", {
      body: { certificate, private_key: key },
      ...(as ? { key: as } : {}),
    });
  const feed = async (applied: number): Promise<CertificateUpdate> => {
    const url = `/internal/edge/certificates?edge=e&applied=${applied}`;
    return CertificateUpdate.parse((await api.app.inject({ method: "GET", url })).json());
  };
  return { ...api, authority, upload, feed };
}

const codeOf = (body: Record<string, unknown>) => {
  const { code, details } = body["error"] as { code: string; details: { reason?: string } };
  return details.reason ? `${code} ${details.reason}` : code;
};

test("what cannot be served is refused with the reason, and the key is in no answer", async (t) => {
  const { authority, upload } = await start(t);
  const good = await authority.issue("app.clinic.example", ["app.clinic.example"]);
  const other = await authority.issue("other.clinic.example", ["other.clinic.example"]);
  const foreign = await authority.issue("shop.stranger.example", ["shop.stranger.example"]);
  const cases: [string, string, string, string][] = [
    ["text in place of PEM", "hello", good.key, "CERTIFICATE_INVALID certificate_malformed"],
    ["another key", good.certificate, other.key, "CERTIFICATE_INVALID key_mismatch"],
    ["no key", good.certificate, "hello", "CERTIFICATE_INVALID key_malformed"],
    [
      "a chain that is none",
      good.certificate + other.certificate,
      good.key,
      "CERTIFICATE_INVALID chain_broken",
    ],
    ["names of nobody here", foreign.certificate, foreign.key, "CERTIFICATE_NAMES_FOREIGN"],
  ];
  for (const [name, certificate, key, code] of cases) {
    const refused = await upload(certificate, key);
    assert.deepEqual([refused.status, codeOf(refused.body)], [422, code], name);
    assert.ok(!JSON.stringify(refused.body).includes("PRIVATE KEY"), name);
  }
});

test("an edge waits while there is no certificate, and does not ask again and again", async (t) => {
  const { app, authority, upload } = await start(t);
  const poll = (wait: number) =>
    app.inject({ url: `/internal/edge/certificates?edge=e&applied=0&wait_ms=${wait}` });
  assert.equal((await poll(0)).statusCode, 204);
  const waiting = poll(20_000);
  const { certificate, key } = await authority.issue("app.clinic.example", ["app.clinic.example"]);
  await upload(certificate, key);
  assert.equal(CertificateUpdate.parse((await waiting).json()).certificates.length, 1);
});

test("an uploaded certificate is shown without its key, goes to the edges sealed, and leaves them when removed", async (t) => {
  const { authority, upload, call, feed, otherTenant } = await start(t);
  const own = await authority.issue("app.clinic.example", ["app.clinic.example", "shop.stranger.example"]);
  const made = await upload(own.certificate + authority.certificate, own.key);
  assert.equal(made.status, 201, JSON.stringify(made.body));
  const view = made.body["data"] as { id: string; state: string; source: string; issuer: string };
  assert.deepEqual([view.state, view.source, view.issuer], ["issued", "uploaded", "A company"]);
  assert.ok(!JSON.stringify(made.body).includes("PRIVATE"));
  const byName = await call("GET", "/certificates/app.clinic.example");
  assert.equal((byName.body["data"] as { id: string }).id, view.id);

  const first = await feed(0);
  assert.deepEqual([first.full, first.certificates.length], [true, 1]);
  const pair = openCertificate(edgeToken, view.id, first.certificates[0]!.sealed!);
  assert.ok(pair.key.includes("PRIVATE KEY"));
  assert.throws(() => openCertificate("another token of an edge", view.id, first.certificates[0]!.sealed!));
  assert.throws(() => openCertificate(edgeToken, randomUUID(), first.certificates[0]!.sealed!));

  assert.equal((await call("DELETE", `/certificates/${view.id}`)).status, 200);
  const after = await feed(first.version);
  assert.deepEqual(after.certificates, [{ ...after.certificates[0]!, id: view.id, sealed: null }]);
  assert.equal((await call("GET", `/certificates/${view.id}`)).status, 404);
  const stranger = await otherTenant();
  const refused = await upload(own.certificate, own.key, stranger.key);
  assert.equal(codeOf(refused.body), "CERTIFICATE_NAMES_FOREIGN", "another tenant's names");
});

test("the end of an uploaded certificate is told in time, once", async (t) => {
  const { authority, upload, platform, call } = await start(t);
  const own = await authority.issue("app.clinic.example", ["app.clinic.example"]);
  const { id } = (await upload(own.certificate, own.key)).body["data"] as { id: string };
  await platform.pool.query("update certificates set not_after = now() + interval '5 days'");
  await warnOfExpiry(platform);
  await warnOfExpiry(platform);
  const events = await platform.pool.query("select 1 from events where type = 'certificate.expiring'");
  assert.equal(events.rowCount, 1);
  const view = (await call("GET", `/certificates/${id}`)).body["data"] as {
    state: string;
    last_error: { reason: string };
  };
  assert.deepEqual([view.state, view.last_error.reason], ["issued", "expires_soon"]);
});
