import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { connect, type PeerCertificate } from "node:tls";
import { waitFor } from "@platform/daemon";
import { createPool, query, transaction } from "@platform/postgres";
import { putRoute } from "../edges/index.ts";
import { freePort, startPrograms } from "../testing-programs.ts";
import { preparePebble, startResolver } from "./testing-pebble.ts";

const zone = "acme.example";
const isMissing = spawnSync("pebble", ["-h"]).error !== undefined;
const skip = isMissing ? "pebble is not installed: apt-get install pebble" : false;

interface Handshake {
  readonly port: number;
  readonly hostname: string;
  readonly root: string;
}

/** One verified handshake. @throws what the client saw */
function handshake({ port, hostname, root }: Handshake): Promise<PeerCertificate> {
  return new Promise((resolve, reject) => {
    const socket = connect({
      host: "127.0.0.1",
      port,
      servername: hostname,
      ca: root,
      ALPNProtocols: ["http/1.1"],
    });
    socket.once("secureConnect", () => {
      resolve(socket.getPeerCertificate());
      socket.destroy();
    });
    socket.once("error", reject);
    socket.once("end", () => reject(new Error("ended before the handshake was done")));
  });
}

async function start(
  t: TestContext,
  options: { validitySeconds?: number; acme?: Record<string, string> } = {},
) {
  const resolver = await startResolver(t, zone);
  const pebble = await preparePebble(t, { ...options, resolver: resolver.address });
  const [tlsPort, dnsPort, controlPlanePort] = [await freePort(), await freePort(), await freePort()];
  resolver.delegateTo(dnsPort);
  const acme = {
    ACME_DIRECTORY_URL: pebble.directoryUrl,
    ACME_CA_FILE: pebble.caFile,
    ACME_CONTACT: "operator@clinic.example",
    ACME_DNS_ZONE: zone,
    DNS_RESOLVER: resolver.address,
    CONTROL_PLANE_PORT: String(controlPlanePort),
    ...options.acme,
  };
  const edgeSettings = {
    EDGE_TLS_PORT: String(tlsPort),
    ACME_DNS_ZONE: zone,
    ACME_DNS_NAMESERVERS: "ns1.example",
    EDGE_DNS_PORT: String(dnsPort),
  };
  const programs = await startPrograms(t, acme, edgeSettings);
  await pebble.start({ httpPort: programs.edge.port, tlsPort });
  const pool = createPool(programs.databaseUrl);
  t.after(() => pool.end());
  const { rows } = await pool.query<{ id: string }>("select id from tenants");
  const tenantId = rows[0]!.id;
  /** What a promote of a custom domain's deployment does. */
  const route = async (hostname: string) => {
    await transaction(pool, (db) =>
      putRoute(db, {
        hostname,
        tenantId,
        kind: "custom",
        target: { type: "page", page: "maintenance", detail: null },
      }),
    );
    await pool.query("select pg_notify('platform', 'routes')");
    await waitFor(
      `the edge to know ${hostname}`,
      async () => (await programs.fetch(`http://${hostname}:${programs.edge.port}/`)).status === 503,
      20_000,
    );
  };
  const ordersOf = (name: string) =>
    query<{ challenge: string; outcome: string | null }>(
      pool,
      "select challenge, outcome from acme_orders where name = $1 order by id",
      [name],
    );
  const certificate = async (name: string) =>
    (await programs.api("GET", `/certificates/${name}`)).at<{
      state: string;
      not_after: string;
      next_try_at: string | null;
      last_error: { reason: string; next_step: string } | null;
    }>("data");
  return { ...programs, resolver, pebble, pool, tenantId, tlsPort, dnsPort, route, ordersOf, certificate };
}

const tail = (...logs: string[]) => logs.map((log) => log.slice(-2_000)).join("\n");

const settled = (all: Promise<unknown>[]) =>
  Promise.allSettled(all).then((results) => results.filter((one) => one.status === "fulfilled").length);

test("certificates from an authority, for names that routes know and no other", { skip }, async (t) => {
  const platform = await start(t);
  const { pebble, tlsPort, route, ordersOf } = platform;
  const root = await pebble.root();
  const shake = (hostname: string, port = tlsPort) => handshake({ port, hostname, root });

  await t.test("20 handshakes at once for a new name make one order, and all are served", async () => {
    await route("shop.customer.example");
    const before = pebble.orders();
    const all = Array.from({ length: 20 }, () => shake("shop.customer.example"));
    assert.equal(await settled(all), 20, tail(platform.controlPlane.log(), platform.edge.log()));
    assert.equal(pebble.orders() - before, 1);
    assert.deepEqual(await ordersOf("shop.customer.example"), [{ challenge: "http-01", outcome: "issued" }]);
    assert.equal((await platform.certificate("shop.customer.example")).state, "issued");
  });

  await t.test("a name that no route knows gets no certificate and makes no order", async () => {
    const before = pebble.orders();
    for (const hostname of ["stranger.example", "unknown.customer.example", "nobody.clinic.localhost"])
      await assert.rejects(shake(hostname), hostname);
    assert.equal(pebble.orders() - before, 0);
    assert.deepEqual(await query(platform.pool, "select name from certificates"), [
      { name: "shop.customer.example" },
    ]);
  });

  await t.test("two control planes and two edges make one order for a name", async () => {
    const second = await platform.startControlPlane({ CONTROL_PLANE_PORT: "0" });
    const secondTls = await freePort();
    await platform.startEdge({
      EDGE_ID: "second",
      EDGE_LISTEN_PORT: "0",
      EDGE_TLS_PORT: String(secondTls),
      EDGE_DNS_PORT: "0",
      EDGE_DATA_DIR: join(platform.folder, "second-edge"),
      CONTROL_PLANE_URL: `http://127.0.0.1:${second.port}`,
    });
    await route("both.customer.example");
    const before = pebble.orders();
    const all = Array.from({ length: 20 }, (_, index) =>
      waitFor(
        "a handshake at either edge",
        () => shake("both.customer.example", index % 2 === 0 ? tlsPort : secondTls),
        60_000,
      ),
    );
    assert.equal(await settled(all), 20);
    assert.equal(pebble.orders() - before, 1);
  });

  await t.test(
    "wildcards come by DNS-01, through the tenant's own delegation to our name server",
    async () => {
      const listed = await platform.api("GET", "/certificates/wildcards");
      type Wildcard = { name: string; record: { name: string; value: string; verdict: string } };
      const wildcards = listed.at<Wildcard[]>("data");
      const names = ["*.clinic.localhost", "*.sandbox.clinic.localhost"];
      for (const name of names) {
        const { record } = wildcards.find((one) => one.name === name)!;
        assert.match(record.value, /^[0-9a-f]{32}\.acme\.example$/);
        platform.resolver.aliases.set(record.name, record.value);
      }
      const checked = await platform.api("POST", "/certificates/wildcards/check", {});
      const verdicts = checked.at<Wildcard[]>("data").map(({ name, record }) => [name, record.verdict]);
      assert.deepEqual(verdicts, [
        ["*.clinic.localhost", "ok"],
        ["*.s3.clinic.localhost", "missing"],
        ["*.sandbox.clinic.localhost", "ok"],
      ]);
      for (const hostname of [
        "any.clinic.localhost",
        "clinic.localhost",
        "3000-x.sandbox.clinic.localhost",
      ]) {
        const seen = await waitFor(`the wildcard for ${hostname}`, () => shake(hostname), 60_000);
        assert.match(seen.subjectaltname ?? "", /\*\./);
      }
      await assert.rejects(shake("a.b.clinic.localhost"), "a wildcard serves one label");
      for (const name of names)
        assert.deepEqual(await ordersOf(name), [{ challenge: "dns-01", outcome: "issued" }]);
    },
  );

  await t.test("keys lie sealed, in the database and on the edge", async () => {
    const dump = await query<{ all: string }>(
      platform.pool,
      "select coalesce(string_agg(c::text, ''), '') || (select string_agg(a::text, '') from acme_accounts a) as all from certificates c",
    );
    const marker = Buffer.from("PRIVATE KEY").toString("hex");
    assert.ok(dump[0]!.all.includes("BEGIN CERTIFICATE"), "the chain is no secret");
    assert.ok(!dump[0]!.all.includes("PRIVATE KEY") && !dump[0]!.all.includes(marker));
    const folder = join(platform.folder, "edge", "certificates");
    const files = await readdir(folder);
    assert.ok(files.length >= 4, String(files));
    for (const name of files) {
      const text = await readFile(join(folder, name), "utf8");
      assert.ok(!text.includes("PRIVATE KEY"), name);
      assert.ok(!Buffer.from(text, "base64").includes("PRIVATE KEY"), name);
    }
  });

  await t.test("with every control plane gone, an edge that restarts serves its certificates", async () => {
    await platform.killControlPlanes();
    await platform.edge.kill();
    await platform.startEdge();
    for (const hostname of ["shop.customer.example", "any.clinic.localhost"])
      assert.ok(await shake(hostname), hostname);
  });
});

test("TLS-ALPN-01 proves a name while others go on with theirs", { skip }, async (t) => {
  const platform = await start(t, { acme: { ACME_CHALLENGES: "tls-alpn-01" } });
  await platform.route("alpn.customer.example");
  const root = await platform.pebble.root();
  const all = Array.from({ length: 5 }, () =>
    handshake({ port: platform.tlsPort, hostname: "alpn.customer.example", root }),
  );
  assert.equal(await settled(all), 5, tail(platform.controlPlane.log(), platform.edge.log()));
  assert.deepEqual(await platform.ordersOf("alpn.customer.example"), [
    { challenge: "tls-alpn-01", outcome: "issued" },
  ]);
});

test("an authority in trouble: the state says why and when it is tried again", { skip }, async (t) => {
  const platform = await start(t);
  const { pebble, route, certificate, tlsPort } = platform;
  const root = await pebble.root();
  const refusedHandshake = (hostname: string) =>
    assert.rejects(handshake({ port: tlsPort, hostname, root }), hostname);
  await route("served.customer.example");
  await handshake({ port: tlsPort, hostname: "served.customer.example", root });

  await t.test("rate limited: the next try is when the authority allows it", async () => {
    pebble.trouble = {
      status: 429,
      headers: { "retry-after": "3600" },
      body: { type: "urn:ietf:params:acme:error:rateLimited", detail: "too many certificates" },
    };
    await route("limited.customer.example");
    const before = Date.now();
    await refusedHandshake("limited.customer.example");
    const seen = await certificate("limited.customer.example");
    assert.deepEqual([seen.state, seen.last_error?.reason], ["failed", "rate_limited"]);
    assert.ok(Date.parse(seen.next_try_at!) >= before + 3_600_000 - 1_000, String(seen.next_try_at));
    await refusedHandshake("limited.customer.example");
    assert.deepEqual(await platform.ordersOf("limited.customer.example"), [], "nothing is asked before that");
  });

  await t.test("failing with 500: it is tried again by itself, and then there is one", async () => {
    pebble.trouble = { status: 500, body: { type: "urn:ietf:params:acme:error:serverInternal" } };
    await route("later.customer.example");
    await refusedHandshake("later.customer.example");
    assert.equal((await certificate("later.customer.example")).last_error?.reason, "authority_failing");
    pebble.trouble = null;
    // The first wait is 15 to 17 seconds.
    await waitFor(
      "the certificate",
      async () => (await certificate("later.customer.example")).state === "issued",
      120_000,
    );
    await handshake({ port: tlsPort, hostname: "later.customer.example", root });
  });

  await t.test(
    "a challenge that cannot be met is told with its remedy, and not tried at once again",
    async () => {
      platform.resolver.aliases.set("away.customer.example", "nowhere.acme.example");
      await route("away.customer.example");
      await refusedHandshake("away.customer.example");
      const seen = await certificate("away.customer.example");
      assert.equal(seen.last_error?.reason, "validation_failed", JSON.stringify(seen));
      assert.match(seen.last_error?.next_step ?? "", /DNS/);
      assert.ok(Date.parse(seen.next_try_at!) > Date.now() + 60_000);
    },
  );

  await t.test("unreachable: what was issued is served on", async () => {
    await pebble.stop();
    await route("down.customer.example");
    await refusedHandshake("down.customer.example");
    assert.equal((await certificate("down.customer.example")).last_error?.reason, "authority_unreachable");
    assert.ok(await handshake({ port: tlsPort, hostname: "served.customer.example", root }));
  });
});

test("certificates of 120 seconds are renewed under load without a failed handshake", { skip }, async (t) => {
  const platform = await start(t, { validitySeconds: 120 });
  const hostname = "busy.customer.example";
  await platform.route(hostname);
  const root = await platform.pebble.root();
  const serials = new Set<string>();
  let failures = 0;
  let done = 0;
  const once = () =>
    handshake({ port: platform.tlsPort, hostname, root }).then(
      (seen) => {
        serials.add(seen.serialNumber);
        done++;
      },
      () => failures++,
    );
  await once();
  const first = await platform.certificate(hostname);
  assert.equal(failures, 0);
  const endsAt = Date.parse(first.not_after);
  // Until the first certificate has ended and its successor was seen.
  while (Date.now() < endsAt + 5_000 || serials.size < 2) {
    await Promise.all([once(), once(), once()]);
    await new Promise((resolve) => setTimeout(resolve, 100));
    if (Date.now() > endsAt + 120_000) break;
  }
  assert.equal(failures, 0, `of ${done}; ${tail(platform.controlPlane.log())}`);
  assert.ok(serials.size >= 2, `${serials.size} certificates in ${done} handshakes`);
  const orders: { outcome: string | null }[] = await platform.ordersOf(hostname);
  assert.ok(orders.every(({ outcome }) => outcome === "issued"));
  assert.ok(orders.length <= 3, `${orders.length} orders`);
});
