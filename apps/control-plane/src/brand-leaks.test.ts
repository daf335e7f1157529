import assert from "node:assert/strict";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { ask, crawl, Findings, read } from "@platform/brand-scan";
import { allHandlers, createApp } from "./app.ts";
import { startTestApi } from "./testing-api.ts";

const tenancy = { webhookAllowPrivate: true, dnsServers: null };
const unknown = "00000000-0000-4000-8000-000000000000";

/** Every route of the contract, with ids that nobody has and bodies that nobody wants. */
function callsOf(paths: readonly { method: string; path: string }[]) {
  return paths.flatMap(({ method, path }) => {
    const named = path.replace(/:\w+/g, unknown).replace("*", "a/b");
    return ["{}", "{", '{"name":1}']
      .slice(0, method === "GET" ? 1 : 3)
      .map((body) => ({ method, path: named, body }));
  });
}

test("the API of two tenants with different looks shows each its own name only: answers, refusals, documents, pages", async (t) => {
  const api = await startTestApi(t, { handlers: () => [] });
  const app = createApp(api.platform, {
    edgeToken: "edge-token-of-this-test",
    audit: () => undefined,
    tenancy,
  });
  t.after(() => app.close());
  await app.listen({ host: "127.0.0.1", port: 0 });
  const { port } = app.server.address() as AddressInfo;
  const connection = { connectTo: `127.0.0.1:${port}`, timeoutMs: 60_000 };
  const other = await api.otherTenant();
  const tenants = [
    { host: "api.clinic.example", key: api.operator, name: "Clinic IQ", neighbour: "Builder Bay" },
    { host: "api.other.example", key: other.key, name: "Builder Bay", neighbour: "Clinic IQ" },
  ];
  const calls = callsOf(allHandlers(api.platform, tenancy).map(({ route }) => route)).filter(
    // They wait for events that never come.
    ({ method, path }) => !(method === "GET" && /stream|watch|tunnel|terminal|readiness|ssh/.test(path)),
  );
  for (const { host, key, name } of tenants) {
    const authorization = `Bearer ${key}`;
    const asked = { method: "PUT", headers: { authorization, "content-type": "application/json" } };
    const body = JSON.stringify({ custom_app_name: name });
    const set = await ask(`http://${host}/api/v1/settings/branding`, { ...asked, body }, connection);
    assert.equal(set.status, 200, set.body.toString());
  }
  for (const { host, key, neighbour } of tenants) {
    const findings = new Findings([
      { owner: "neighbour", text: neighbour },
      { owner: "machine", text: import.meta.dirname },
    ]);
    const statuses = new Set<number>();
    for (const { method, path, body } of calls) {
      const headers = {
        authorization: `Bearer ${key}`,
        accept: "application/json",
        "content-type": "application/json",
      };
      const sent = method === "GET" || method === "HEAD" ? { method, headers } : { method, headers, body };
      const answer = await ask(`http://${host}/api/v1${path}`, sent, connection);
      statuses.add(answer.status);
      read(answer, `${method} ${path} ${body}`, findings);
    }
    const crawled = await crawl({ urls: [`http://${host}/`], connection, mostPages: 1_000 }, findings);
    assert.deepEqual(findings.all, []);
    assert.deepEqual(crawled.unreached, []);
    for (const status of [200, 404, 422]) assert.ok(statuses.has(status), `no answer was ${status}`);
    assert.ok(crawled.pages > 60, `${crawled.pages} pages`);
    t.diagnostic(`${host}: ${calls.length} calls, ${crawled.pages} pages, ${findings.looked} texts`);
  }
});
