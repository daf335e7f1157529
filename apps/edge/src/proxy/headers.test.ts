import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Rig } from "../testing/rig.ts";

const isFronted = process.env["EDGE_TEST_DATA_PLANE"] === "haproxy";
let rig: Rig;
before(async () => {
  rig = await Rig.start({ PUBLIC_PORT: "443" });
  const app = await rig.app((req, res) => {
    res.writeHead(200, [
      ["Set-Cookie", "a=1"],
      ["Set-Cookie", "b=2"],
      ["Connection", "x-hop"],
      ["X-Hop", "1"],
      ["Keep-Alive", "timeout=1"],
      ["X-App", "yes"],
    ] as unknown as string[]);
    res.end(JSON.stringify(req.headers));
  });
  await rig.publish({ "app.clinic.test": app.target });
});
after(() => rig.stop());

const seen = async (headers: Record<string, string>) =>
  JSON.parse((await rig.fetch("app.clinic.test:8443", "/", { headers })).body) as Record<string, string>;

test("the app sees the public host and the client's address, whatever the client claims", async () => {
  const headers = await seen({
    "x-forwarded-for": "6.6.6.6",
    "x-forwarded-proto": "gopher",
    "x-forwarded-host": "evil.test",
    forwarded: "for=6.6.6.6",
    "x-real-ip": "6.6.6.6",
    "proxy-authorization": "Basic x",
    te: "trailers",
    connection: "close, x-secret-hop",
    "x-secret-hop": "1",
    "x-request-id": "abc-1",
    cookie: "s=1",
  });
  assert.equal(headers["host"], "app.clinic.test:8443");
  assert.equal(headers["x-forwarded-for"], "127.0.0.1");
  assert.equal(headers["x-forwarded-proto"], "http");
  assert.equal(headers["x-forwarded-host"], "app.clinic.test:8443");
  assert.equal(headers["x-forwarded-port"], "443");
  assert.equal(headers["x-request-id"], "abc-1");
  assert.equal(headers["cookie"], "s=1");
  for (const name of ["forwarded", "x-real-ip", "proxy-authorization", "te", "x-secret-hop", "via"]) {
    assert.equal(headers[name], undefined, name);
  }
  assert.match((await seen({ "x-request-id": "bad id!" }))["x-request-id"]!, /^[0-9a-f-]{36}$/);
});

test("the client sees the app's headers, all of them, and none of the edge's", async () => {
  const answer = await rig.fetch("app.clinic.test");
  assert.deepEqual(answer.headers["set-cookie"], ["a=1", "b=2"]);
  assert.equal(answer.headers["x-app"], "yes");
  // HAProxy does not know which headers an app named as those of its connection.
  if (!isFronted) assert.equal(answer.headers["x-hop"], undefined);
  for (const name of ["server", "via", "x-powered-by", "x-request-id"]) {
    assert.equal(answer.headers[name], undefined, name);
  }
});

const host = "Host: app.clinic.test\r\n";
const lengthAndChunks = `POST / HTTP/1.1\r\n${host}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`;
const malformed: Record<string, string> = {
  // HAProxy takes the length away, as RFC 9112 section 6.3 allows, and hands on the chunks alone.
  ...(isFronted ? {} : { "length and chunks": lengthAndChunks }),
  "two lengths": `POST / HTTP/1.1\r\n${host}Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd`,
  "two hosts": `GET / HTTP/1.1\r\n${host}Host: other.test\r\n\r\n`,
  "no host": "GET / HTTP/1.1\r\n\r\n",
  "no host in 1.0": "GET / HTTP/1.0\r\n\r\n",
  "a bad host": "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
  // HAProxy writes it anew, in its one honest form.
  ...(isFronted ? {} : { "a folded header": `GET / HTTP/1.1\r\n${host}X-A: 1\r\n folded\r\n\r\n` }),
  "a space before the colon": `GET / HTTP/1.1\r\n${host}X-A : 1\r\n\r\n`,
  "a control character": `GET / HTTP/1.1\r\n${host}X-A: \x01\r\n\r\n`,
  "an unknown encoding": `POST / HTTP/1.1\r\n${host}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n`,
  "chunks in 1.0": `POST / HTTP/1.0\r\n${host}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
  // HAProxy writes it anew, in its one honest form.
  ...(isFronted ? {} : { "bare line feeds": "GET / HTTP/1.1\nHost: app.clinic.test\n\n" }),
};
for (const [name, bytes] of Object.entries(malformed)) {
  test(`a request with ${name} is refused and its connection closed`, async () => {
    assert.match(await rig.raw(bytes), /^HTTP\/1\.1 400 /);
  });
}

test("a header block over 64 KiB gets the brand's page, a smaller one passes", async () => {
  const large = (bytes: number) =>
    `GET / HTTP/1.1\r\n${host}Accept: text/html\r\nConnection: close\r\nX-Large: ${"a".repeat(bytes)}\r\n\r\n`;
  const branded = await rig.raw(large(70_000));
  assert.match(branded, /^HTTP\/1\.1 431 /);
  assert.match(branded, /Clinic &lt;IQ&gt;/);
  // What does not even fit into HAProxy's buffer is malformed to it.
  assert.match(await rig.raw(large(200_000)), /^HTTP\/1\.1 4(?:00|31) /);
  assert.match(await rig.raw(large(10_000)), /^HTTP\/1\.1 200 /);
});

test("requests to an address or localhost reach the control plane with their Host", async () => {
  for (const name of ["127.0.0.1:4000", "localhost", "[::1]:80"]) {
    const answer = JSON.parse((await rig.fetch(name, "/api/v1/sandboxes?x=1")).body) as {
      path: string;
      headers: Record<string, string>;
    };
    assert.equal(answer.path, "/api/v1/sandboxes?x=1");
    assert.equal(answer.headers["host"], name);
    assert.equal(answer.headers["x-forwarded-for"], "127.0.0.1");
  }
});
