import assert from "node:assert/strict";
import { randomBytes, randomUUID } from "node:crypto";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { test, type TestContext } from "node:test";
import { decode, encode, RECURSION_DESIRED, type Answer as Record_ } from "dns-packet";
import { waitFor } from "@platform/daemon";
import { createPool, transaction } from "@platform/postgres";
import { putRoute } from "../edges/index.ts";
import { hashSecret } from "../keys/index.ts";
import { startPrograms } from "../testing-programs.ts";
import { normalise } from "./hostname.ts";

interface Zone {
  readonly address: string;
  readonly cname: Map<string, string>;
  readonly txt: Map<string, string>;
  /** Names whose lookups fail, as those of a zone with broken servers do. */
  readonly broken: Set<string>;
}

/** A real name server with records that the test sets. */
async function startDns(t: TestContext): Promise<Zone> {
  const socket = createSocket("udp4");
  const zone = {
    cname: new Map<string, string>(),
    txt: new Map<string, string>(),
    broken: new Set<string>(),
  };
  socket.on("message", (message, from) => {
    const query = decode(message);
    const question = query.questions![0]!;
    const name = question.name.toLowerCase();
    const answers: Record_[] = [];
    const cname = zone.cname.get(name);
    const txt = zone.txt.get(name);
    if (question.type === "CNAME" && cname) answers.push({ type: "CNAME", name, ttl: 1, data: cname });
    if (question.type === "TXT" && txt) answers.push({ type: "TXT", name, ttl: 1, data: [txt] });
    const code = zone.broken.has(name.replace(/^_verify\./, "")) ? 2 : answers.length > 0 ? 0 : 3;
    socket.send(
      encode({
        type: "response",
        id: query.id!,
        flags: RECURSION_DESIRED | code,
        questions: [question],
        answers,
      }),
      from.port,
      from.address,
    );
  });
  socket.bind(0, "127.0.0.1");
  await once(socket, "listening");
  t.after(() => socket.close());
  return { address: `127.0.0.1:${socket.address().port}`, ...zone };
}

test("a host name is brought to the form of DNS, and what is none is refused", () => {
  assert.equal(normalise(" App.Example.COM. "), "app.example.com");
  assert.equal(normalise("bücher.example"), "xn--bcher-kva.example");
  for (const bad of [
    "*.example.com",
    "https://a.example",
    "a.example/x",
    "a..example",
    "-a.example",
    "localhost",
    "10.0.0.1",
    "a b.example",
    "a_b.example",
    "co.uk",
    "github.io",
    "printer.local",
    `${"a".repeat(64)}.example`,
    `${"abcdefg.".repeat(32)}example`,
    "a.example:80",
    "x@y.example",
  ])
    assert.throws(() => normalise(bad), { code: "VALIDATION_FAILED" }, bad);
});

test("custom domains from claim to removal, proved by real DNS", async (t) => {
  const dns = await startDns(t);
  const platform = await startPrograms(t, { DNS_RESOLVER: dns.address });
  const { api } = platform;
  const pool = createPool(platform.databaseUrl);
  t.after(() => pool.end());
  const deployment = await api("POST", "/deployments", { name: "shop" });
  const deploymentId = deployment.at("data", "id");
  const base = `/deployments/${deploymentId}/domains`;
  const visit = (hostname: string, path = "/") =>
    platform.fetch(`http://${hostname}:${platform.edge.port}${path}`);
  const claimed = await api("POST", base, { domain: "Shop.Acme.Example.", redirect_policy: "none" });
  assert.equal(claimed.status, 201, claimed.text);
  const target = claimed.at("data", "verification_target");

  await t.test("a claim is pending, says which record to add, and routes nothing", async () => {
    assert.equal(claimed.at("data", "hostname"), "shop.acme.example");
    assert.equal(claimed.at("data", "state"), "pending");
    assert.match(target, /^[0-9a-f]{24}\.domains\.clinic\.localhost$/);
    assert.deepEqual(claimed.at("data", "dns_records", 0), {
      type: "CNAME",
      name: "shop.acme.example",
      value: target,
      purpose: "routing",
      found: [],
      verdict: "unchecked",
    });
    assert.equal((await visit("shop.acme.example")).status, 404);
    const same = await api("POST", "/domains", { hostname: "shop.acme.example" });
    assert.equal(same.at("data", "id"), claimed.at("data", "id"));
    assert.equal((await api("GET", base)).at<unknown[]>("data").length, 1);
  });

  await t.test("names of the platform, wildcards and other targets are refused", async () => {
    for (const hostname of ["clinic.localhost", "x.y.clinic.localhost", "*.acme.example", "nodots"])
      assert.equal((await api("POST", "/domains", { hostname })).status, 422, hostname);
    const wildcard = await api("POST", "/domains", { hostname: "*.acme.example" });
    assert.equal(wildcard.at("error", "details", "reason"), "wildcard");
    const own = await api("POST", "/domains", { hostname: "x.clinic.localhost" });
    assert.equal(own.at("error", "details", "reason"), "platform_name");
    const sandbox = { domain: "s.acme.example", resource_type: "sandbox", resource_id: randomUUID() };
    assert.equal((await api("POST", "/custom-domains", sandbox)).status, 422);
  });

  await t.test("verify says what is missing, what differs, and when DNS gave no answer", async () => {
    const verify = () => api("POST", "/domains/shop.acme.example/verify", {});
    const missing = await verify();
    assert.deepEqual([missing.status, missing.at("error", "code")], [422, "DNS_LOOKUP_FAILED"]);
    assert.equal(missing.at("error", "details", "wanted", "cname", "value"), target);
    assert.match(missing.at("error", "details", "next_step"), /Add the record/);
    dns.cname.set("shop.acme.example", "elsewhere.example");
    const differs = await verify();
    assert.equal(differs.at("error", "code"), "CNAME_MISMATCH");
    assert.deepEqual(differs.at("error", "details", "seen", "cname"), ["elsewhere.example"]);
    dns.broken.add("shop.acme.example");
    const broken = await verify();
    assert.equal(broken.at("error", "details", "reason"), "dns_unreachable");
    dns.broken.clear();
    const row = await api("GET", "/domains/shop.acme.example");
    assert.equal(row.at("data", "state"), "failed");
    assert.equal(row.at("data", "dns_records", 0, "verdict"), "unreachable");
    assert.ok(Date.parse(row.at("data", "next_check_at")) > Date.now());
  });

  await t.test(
    "a right record activates the name before the first promote, and it follows the deployment",
    async () => {
      dns.cname.set("shop.acme.example", "alias.acme.example");
      dns.cname.set("alias.acme.example", target);
      const verified = await api("POST", `${base}/${claimed.at("data", "id")}/verify`, {});
      assert.equal(verified.status, 200, verified.text);
      assert.equal(verified.at("data", "state"), "active");
      assert.equal((await visit("shop.acme.example")).status, 503, "a page that says: starting");
      // What a promote does to the deployment's own name, seen when the next claim is routed.
      await transaction(pool, (db) =>
        putRoute(db, {
          hostname: `${deployment.at("data", "slug")}.${platform.domain}`,
          tenantId: claimed.at("data", "tenant_id"),
          kind: "deployment",
          target: { type: "page", page: "maintenance", detail: null },
          deploymentId,
        }),
      );
      const again = await api("POST", "/domains/shop.acme.example/verify", {});
      assert.equal(again.status, 200);
      assert.match((await visit("shop.acme.example")).text, /maintenance/i);
    },
  );

  await t.test("a domain that was proved stays served when its DNS fails", async () => {
    dns.broken.add("shop.acme.example");
    assert.equal((await api("POST", "/domains/shop.acme.example/verify", {})).status, 422);
    const row = await api("GET", "/domains/shop.acme.example");
    assert.equal(row.at("data", "state"), "active");
    assert.equal(row.at("data", "last_error", "code"), "DNS_LOOKUP_FAILED");
    dns.broken.clear();
  });

  await t.test("a domain whose DNS moved away is reported, and served no longer after a week", async () => {
    dns.cname.set("shop.acme.example", "elsewhere.example");
    assert.equal((await api("POST", "/domains/shop.acme.example/verify", {})).status, 422);
    const away = await api("GET", "/domains/shop.acme.example");
    assert.deepEqual([away.at("data", "state"), away.at("data", "dns_state")], ["active", "moved_away"]);
    assert.equal(away.at("data", "dns_records", 0, "verdict"), "differs");
    assert.match((await visit("shop.acme.example")).text, /maintenance/i);
    await pool.query(
      "update domains set away_since = now() - interval '8 days' where hostname = 'shop.acme.example'",
    );
    assert.equal((await api("POST", "/domains/shop.acme.example/verify", {})).status, 422);
    assert.equal((await api("GET", "/domains/shop.acme.example")).at("data", "state"), "failed");
    assert.equal((await visit("shop.acme.example")).status, 404);
    // Nobody calls: the control plane looks by itself.
    dns.cname.set("shop.acme.example", target);
    await pool.query("update domains set next_check_at = now() where hostname = 'shop.acme.example'");
    await waitFor(
      "the domain to be back",
      async () => /maintenance/i.test((await visit("shop.acme.example")).text),
      60_000,
    );
    assert.equal((await api("GET", "/domains/shop.acme.example")).at("data", "dns_state"), "ok");
    const { rows } = await pool.query<{ type: string }>(
      "select type from events where type like 'domain.%' order by seq",
    );
    const types = rows.map(({ type }) => type);
    for (const type of ["domain.created", "domain.moved_away", "domain.returned"])
      assert.ok(types.includes(type), type);
  });

  await t.test("a domain that is detached serves nothing, and keeps its proof", async () => {
    const detached = await api("POST", "/domains/shop.acme.example/detach", {});
    assert.deepEqual(
      [detached.at("data", "state"), detached.at("data", "deployment_id")],
      ["verified", null],
    );
    assert.equal((await visit("shop.acme.example")).status, 404);
    const again = await api("POST", "/domains/shop.acme.example/assign", { deployment_id: deploymentId });
    assert.equal(again.at("data", "state"), "active");
  });

  await t.test("an apex is proved by TXT, and www redirects to it", async () => {
    const apex = await api("POST", "/domains", { hostname: "acme.example" });
    dns.txt.set("_verify.acme.example", apex.at("data", "verification_token"));
    assert.equal((await api("POST", "/domains/acme.example/verify", {})).at("data", "state"), "verified");
    assert.equal((await visit("acme.example")).status, 404);
    const assigned = await api("POST", "/domains/acme.example/assign", {
      deployment_id: deploymentId,
      redirect_policy: "www_to_apex",
    });
    assert.equal(assigned.at("data", "state"), "active", assigned.text);
    const moved = await visit("www.acme.example", "/a?b=1");
    assert.equal(moved.status, 308);
    assert.equal(moved.headers.location, `http://acme.example:${platform.edge.port}/a?b=1`);
    const www = { hostname: "www.acme.example", redirect_policy: "apex_to_www" };
    assert.equal((await api("POST", "/domains", www)).at("error", "code"), "CONFLICT");
    await api("POST", "/domains/acme.example/assign", {
      deployment_id: deploymentId,
      redirect_policy: "apex_to_www",
    });
    assert.equal(
      (await visit("acme.example")).headers.location,
      `http://www.acme.example:${platform.edge.port}/`,
    );
    assert.match((await visit("www.acme.example")).text, /maintenance/i);
  });

  await t.test(
    "another tenant cannot have the name, and learns nothing; after removal it must prove it anew",
    async () => {
      const other = randomUUID();
      const secret = `msk_p_${randomBytes(30).toString("base64url")}`;
      await pool.query(
        "insert into tenants (id, slug, name, domain) values ($1, 'other', 'Other', 'other.localhost')",
        [other],
      );
      await pool.query(
        "insert into api_keys (id, tenant_id, name, hash, key_prefix, last_four) values (gen_random_uuid(), $1, 'k', $2, 'msk', 'xxxx')",
        [other, hashSecret(secret)],
      );
      // A key works at its own tenant's API host, or at the machine's name.
      const as = { authorization: `Bearer ${secret}`, host: "localhost" };
      const refused = await api("POST", "/domains", { hostname: "shop.acme.example" }, as);
      assert.deepEqual([refused.status, refused.at("error", "code")], [409, "DOMAIN_TAKEN"]);
      assert.doesNotMatch(
        refused.text,
        new RegExp(`${claimed.at("data", "tenant_id")}|clinic|${target}`, "i"),
      );
      assert.equal((await api("GET", "/domains/shop.acme.example", undefined, as)).status, 404);
      const removed = await api("DELETE", "/domains/shop.acme.example");
      assert.equal(removed.status, 200, removed.text);
      assert.equal((await visit("shop.acme.example")).status, 404);
      const second = await api("POST", "/domains", { hostname: "shop.acme.example" }, as);
      assert.equal(second.status, 201);
      const stale = await api("POST", "/domains/shop.acme.example/verify", {}, as);
      assert.equal(
        stale.at("error", "code"),
        "CNAME_MISMATCH",
        "the record for the first owner proves nothing",
      );
      dns.txt.set("_verify.shop.acme.example", second.at("data", "verification_token"));
      const both = await api("POST", "/domains/shop.acme.example/verify", {}, as);
      assert.equal(
        both.at("error", "details", "reason"),
        "dns_record_stale",
        "not before the first owner's record is gone",
      );
      dns.cname.delete("shop.acme.example");
      assert.equal((await api("POST", "/domains/shop.acme.example/verify", {}, as)).status, 200);
    },
  );
});
