import assert from "node:assert/strict";
import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import { after, before, test, type TestContext } from "node:test";
import { Rig } from "../testing/rig.ts";

let rig: Rig;
before(async () => {
  rig = await Rig.start();
});
after(() => rig.stop());

/** A program of the platform that says what it was asked. */
async function service(t: TestContext, name: string): Promise<{ url: string; stop: () => Promise<void> }> {
  const server = createServer((req: IncomingMessage, res) => {
    void text(req).then((body) =>
      res.end(
        JSON.stringify({ name, host: req.headers.host, method: req.method, url: req.url, body: body.length }),
      ),
    );
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const stop = async () => {
    if (!server.listening) return;
    const closed = new Promise((resolve) => server.close(resolve));
    server.closeAllConnections();
    await closed;
  };
  t.after(stop);
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, stop };
}

test("a service gets method, target, body and Host as the client sent them", async (t) => {
  const store = await service(t, "store");
  await rig.publish({ "s3.clinic.test": { type: "service", url: store.url } });
  const body = "x".repeat(3 * 1024 * 1024);
  const answer = await rig.fetch("s3.clinic.test:8443", "/b/a%2Fb%20c?X=%2B", { method: "PUT", body });
  assert.deepEqual(JSON.parse(answer.body), {
    name: "store",
    host: "s3.clinic.test:8443",
    method: "PUT",
    url: "/b/a%2Fb%20c?X=%2B",
    body: body.length,
  });
});

test("a wildcard serves the names below it, the longest one first, and never a name with its own route", async (t) => {
  const [wide, narrow, own] = [await service(t, "wide"), await service(t, "narrow"), await service(t, "own")];
  await rig.publish({
    "*.w.test": { type: "service", url: wide.url },
    "*.s3.w.test": { type: "service", url: narrow.url },
    "own.s3.w.test": { type: "service", url: own.url },
  });
  const servedBy = async (host: string) =>
    (JSON.parse((await rig.fetch(host)).body) as { name: string }).name;
  assert.equal(await servedBy("bucket.s3.w.test"), "narrow");
  assert.equal(await servedBy("own.s3.w.test"), "own");
  assert.equal(await servedBy("s3.w.test"), "wide");
  assert.equal((await rig.fetch("w.test")).status, 404);
  await rig.publish({ "*.s3.w.test": null });
  assert.equal(await servedBy("bucket.s3.w.test"), "wide");
});

test("a service that is away is a branded 503 that may be repeated", async (t) => {
  const store = await service(t, "store");
  await rig.publish({ "away.clinic.test": { type: "service", url: store.url } });
  await store.stop();
  const answer = await rig.fetch("away.clinic.test", "/b/k", { method: "PUT", body: "x" });
  assert.equal(answer.status, 503);
  assert.match(answer.headers["retry-after"] ?? "", /^\d+$/);
});

test("a redirect keeps path, query, port and method", async () => {
  await rig.publish({ "www.clinic.test": { type: "redirect", hostname: "clinic.test" } });
  const answer = await rig.fetch("www.clinic.test:8080", "/a?b=c", { method: "POST", body: "x" });
  assert.equal(answer.status, 308);
  assert.equal(answer.headers.location, "http://clinic.test:8080/a?b=c");
});
