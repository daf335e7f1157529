import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { startTestApi, type TestApi } from "../testing-api.ts";
import { previewDomain, tenantById, tenantDomainHandlers } from "./index.ts";
import { startNameServer } from "./testing-dns.ts";

async function start(t: TestContext) {
  const zone: Parameters<typeof startNameServer>[1] = {};
  const server = await startNameServer(t, zone);
  const api = await startTestApi(t, {
    handlers: (platform) => tenantDomainHandlers(platform, { dnsServers: [server] }),
  });
  return { api, zone };
}

type View = {
  domain: string | null;
  verified_at: string | null;
  active_domain: string;
  cname_target: string;
  verification_token: string;
};
type Check = { verified: boolean; reason: string | null; records: { type: string; ok: boolean }[] };

const set = (api: TestApi, domain: string, key = api.operator) =>
  api.call("PUT", "/tenant/preview-domain", { key, body: { preview_domain: domain } });
const verify = async (api: TestApi, kind = "preview") =>
  (await api.call("POST", `/tenant/${kind}-domain/verify`, { body: {} })).body["data"] as Check;
const inForce = async (api: TestApi) => previewDomain((await tenantById(api.platform.pool, api.tenantId))!);

test("a preview domain is used only once its records are found, and no longer when deleted", async (t) => {
  const { api, zone } = await start(t);
  const pending = (await set(api, "Apps.Customer.example")).body["data"] as View;
  assert.deepEqual(
    [pending.domain, pending.verified_at, pending.active_domain],
    ["apps.customer.example", null, "clinic.example"],
  );

  assert.equal((await verify(api)).reason, "DNS_LOOKUP_FAILED");
  zone["_verify.apps.customer.example"] = { TXT: "something else" };
  assert.equal((await verify(api)).reason, "TXT_MISMATCH");
  zone["_verify.apps.customer.example"] = { TXT: pending.verification_token };
  assert.equal((await verify(api)).reason, "CNAME_MISMATCH");
  assert.equal(await inForce(api), "sandbox.clinic.example");

  zone["*.sandbox.apps.customer.example"] = { CNAME: pending.cname_target };
  const done = await verify(api);
  assert.deepEqual([done.verified, done.records.every(({ ok }) => ok)], [true, true]);
  assert.equal(await inForce(api), "sandbox.apps.customer.example");
  assert.ok(((await api.call("GET", "/tenant/preview-domain")).body["data"] as View).verified_at);

  assert.equal((await api.call("DELETE", "/tenant/preview-domain")).status, 200);
  assert.equal(await inForce(api), "sandbox.clinic.example");
});

test("the verified domain stays in force while another one is pending", async (t) => {
  const { api, zone } = await start(t);
  const first = (await set(api, "one.example")).body["data"] as View;
  zone["_verify.one.example"] = { TXT: first.verification_token };
  zone["*.sandbox.one.example"] = { CNAME: "clinic.example" };
  await verify(api);
  const second = (await set(api, "two.example")).body["data"] as View;
  assert.deepEqual(
    [second.domain, second.verified_at, second.active_domain],
    ["two.example", null, "one.example"],
  );
});

test("a deployment domain is verified by its own wildcard", async (t) => {
  const { api, zone } = await start(t);
  const made = await api.call("PUT", "/tenant/deployment-domain", {
    body: { deployment_domain: "live.example" },
  });
  zone["_verify.live.example"] = { TXT: (made.body["data"] as View).verification_token };
  zone["*.live.example"] = { CNAME: "clinic.example" };
  assert.equal((await verify(api, "deployment")).verified, true);
  const tenant = (await tenantById(api.platform.pool, api.tenantId))!;
  assert.equal(tenant.deployment_domain, "live.example");
});

test("another tenant's domain cannot be claimed, and bad names are refused", async (t) => {
  const { api } = await start(t);
  await api.otherTenant();
  for (const name of ["other.example", "deep.other.example"]) {
    const refused = await set(api, name);
    assert.equal(refused.status, 409);
    assert.equal((refused.body["error"] as { code: string }).code, "DOMAIN_TAKEN");
  }
  for (const name of ["", "localhost", "-a.example", "a_b.example", "http://x.example", "10.0.0.1"]) {
    assert.equal((await set(api, name)).status, 422, name);
  }
  assert.equal((await api.call("POST", "/tenant/preview-domain/verify", { body: {} })).status, 404);
  const key = await api.key({ scopes: ["domains:read"] });
  const refused = await set(api, "x.example", key);
  assert.equal(
    (refused.body["error"] as { details: { required_scope: string } }).details.required_scope,
    "domains:write",
  );
});
