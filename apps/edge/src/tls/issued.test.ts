import assert from "node:assert/strict";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { connect } from "node:tls";
import { openAuthority, type Authority } from "@platform/certificates";
import { waitFor } from "@platform/daemon";
import { sealCertificate, type CertificateEntry } from "@platform/edge-api";
import { brand, EDGE_TOKEN } from "../testing/control-plane.ts";
import { Rig } from "../testing/rig.ts";

let rig: Rig;
let authority: Authority;
const settings = { EDGE_TLS_PORT: "0" };
before(async () => {
  rig = await Rig.start(settings);
  authority = await openAuthority(join(rig.folder, "authority"), "Test");
  const target = { type: "page", page: "maintenance", detail: null } as const;
  await rig.publish({
    "a.customer.test": target,
    "b.customer.test": target,
    "c.customer.test": target,
    "*.wild.test": target,
  });
});
after(() => rig.stop());

async function entry(
  id: string,
  version: number,
  names: string[],
  fields: Partial<CertificateEntry> = {},
): Promise<CertificateEntry> {
  const pair = await authority.issue(names[0]!, names);
  return {
    id,
    version,
    tenantId: brand.tenantId,
    source: "acme",
    names,
    notBefore: Date.now() - 1_000,
    notAfter: Date.now() + 3_600_000,
    sealed: sealCertificate(EDGE_TOKEN, id, pair),
    ...fields,
  };
}

async function give(version: number, certificates: CertificateEntry[], full = false): Promise<void> {
  rig.controlPlane.publishCertificates({ version, full, more: false, certificates, challenges: [] });
  await waitFor(
    `acknowledgement of ${version}`,
    () => rig.controlPlane.certificatesApplied.includes(version),
    20_000,
  );
}

/** Serial number of what is served under a name. @throws what the client saw */
function served(hostname: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const options = { host: "127.0.0.1", port: rig.edge.tlsPort!, servername: hostname };
    const socket = connect({ ...options, ca: authority.certificate }, () => {
      resolve(socket.getPeerCertificate().serialNumber);
      socket.destroy();
    });
    socket.on("error", reject);
  });
}

test("a certificate from the feed is served, its successor swapped in, and a removed one no more", async () => {
  await give(1, [await entry("one", 1, ["a.customer.test"])], true);
  const first = await served("a.customer.test");
  assert.equal(await served("a.customer.test"), first);
  await give(2, [await entry("one", 2, ["a.customer.test"])]);
  assert.notEqual(await served("a.customer.test"), first);
  await give(3, [await entry("one", 3, ["a.customer.test"], { sealed: null })]);
  await assert.rejects(served("a.customer.test"));
});

test("a tenant's own certificate comes first, and serves no other tenant's names", async () => {
  const managed = await entry("managed", 4, ["a.customer.test", "b.customer.test"]);
  await give(4, [managed]);
  const serial = await served("a.customer.test");
  await give(5, [
    await entry("own", 5, ["a.customer.test"], { source: "upload" }),
    await entry("foreign", 5, ["b.customer.test"], { source: "upload", tenantId: "tenant-2" }),
  ]);
  assert.notEqual(await served("a.customer.test"), serial);
  assert.equal(await served("b.customer.test"), serial);
  await give(6, [
    await entry("own", 6, ["a.customer.test"], { source: "upload", notAfter: Date.now() - 1_000 }),
  ]);
  assert.equal(await served("a.customer.test"), serial, "one that has ended gives way");
});

test("only names with a route of their own are asked for, one at a time and not again before it is of use", async () => {
  await give(7, [], true);
  const { wishes } = rig.controlPlane;
  wishes.length = 0;
  const refused = ["c.customer.test", "c.customer.test", "x.wild.test", "stranger.test", "y.clinic.test"];
  for (const hostname of refused) await assert.rejects(served(hostname), hostname);
  assert.deepEqual(wishes, ["c.customer.test"]);
  const granted = await entry("granted", 8, ["b.customer.test"]);
  rig.controlPlane.onWish = () => ({ status: "issued", certificate: granted });
  const all = await Promise.all(Array.from({ length: 20 }, () => served("b.customer.test")));
  assert.equal(new Set(all).size, 1);
  assert.deepEqual(wishes, ["c.customer.test", "b.customer.test"]);
});

test("after a restart without a control plane the local copy serves, and a changed one does not", async () => {
  await give(9, [await entry("kept", 9, ["a.customer.test"])]);
  const serial = await served("a.customer.test");
  await rig.controlPlane.stop();
  await rig.edge.stop();
  await rig.startEdge(settings);
  assert.equal(await served("a.customer.test"), serial);

  await rig.edge.stop();
  const index = join(rig.folder, "edge", "certificates", "index.json");
  const original = await readFile(index, "utf8");
  await writeFile(index, original.replace("a.customer.test", "b.customer.test"));
  await rig.startEdge(settings);
  await assert.rejects(served("b.customer.test"), "an index that was changed is refused");

  await rig.edge.stop();
  await writeFile(index, original);
  const folder = join(rig.folder, "edge", "certificates");
  for (const name of (await readdir(folder)).filter((one) => one.endsWith(".sealed"))) {
    const sealed = Buffer.from(await readFile(join(folder, name), "utf8"), "base64");
    sealed[20] = sealed[20]! ^ 1;
    await writeFile(join(folder, name), sealed.toString("base64"));
  }
  await rig.startEdge(settings);
  await assert.rejects(served("a.customer.test"), "nor is a certificate that was changed");
});
