import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";
import { Rig } from "../testing/rig.ts";

let rig: Rig;
/** What came to each app, in order. */
let seen: string[] = [];
before(async () => {
  rig = await Rig.start();
  const listen = (name: string) =>
    rig.app((req, res) => {
      let body = "";
      req.on("data", (part: Buffer) => (body += part.toString("latin1")));
      req.on("end", () => {
        seen.push(`${name} ${req.method} ${req.url} ${req.headers.host} ${body}`);
        res.end("answered");
      });
    });
  const victim = await listen("victim");
  const other = await listen("other");
  await rig.publish({ "app.clinic.test": victim.target, "other.clinic.test": other.target });
});
after(() => rig.stop());
beforeEach(() => {
  seen = [];
});

const host = "Host: app.clinic.test\r\n";
const inner = "GET /smuggled HTTP/1.1\r\nHost: other.clinic.test\r\n\r\n";
const post = (headers: string, body: string) => `POST / HTTP/1.1\r\n${host}${headers}\r\n${body}`;

/** Each is refused whole: no app sees any of it, neither the request nor what hides in it. */
const refused: Record<string, string> = {
  "CL.TE": post(`Content-Length: ${5 + inner.length}\r\nTransfer-Encoding: chunked\r\n`, `0\r\n\r\n${inner}`),
  "TE.CL": post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", `5\r\nhello\r\n0\r\n\r\n${inner}`),
  "TE.TE with an unknown encoding last": post("Transfer-Encoding: chunked, cow\r\n", `0\r\n\r\n${inner}`),
  "TE.TE with an unknown encoding first": post("Transfer-Encoding: cow, chunked\r\n", `0\r\n\r\n${inner}`),
  "TE.TE in two lines": post(
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
    `0\r\n\r\n${inner}`,
  ),
  "chunked twice": post("Transfer-Encoding: chunked, chunked\r\n", `0\r\n\r\n${inner}`),
  "chunked in quotes": post('Transfer-Encoding: "chunked"\r\n', `0\r\n\r\n${inner}`),
  "an encoding behind a vertical tab": post("Transfer-Encoding: \x0bchunked\r\n", `0\r\n\r\n${inner}`),
  "an encoding behind a space before the colon": post("Transfer-Encoding : chunked\r\n", `0\r\n\r\n${inner}`),
  "an encoding in a folded line": post("Transfer-Encoding:\r\n chunked\r\n", `0\r\n\r\n${inner}`),
  "a folded length": post("Content-Length:\r\n 0\r\n", inner),
  "a length with a sign": post("Content-Length: +5\r\n", `hello${inner}`),
  "a negative length": post("Content-Length: -1\r\n", inner),
  "a hexadecimal length": post("Content-Length: 0x5\r\n", `hello${inner}`),
  "a list of lengths": post("Content-Length: 0, 5\r\n", `hello${inner}`),
  "two lengths": post("Content-Length: 0\r\nContent-Length: 5\r\n", `hello${inner}`),
  "a length over 2^64": post("Content-Length: 18446744073709551617\r\n", inner),
  "two hosts": `GET / HTTP/1.1\r\n${host}Host: other.clinic.test\r\n\r\n`,
  "two hosts of the same name": `GET / HTTP/1.1\r\n${host}${host}\r\n`,
  "a host with a path": "GET / HTTP/1.1\r\nHost: app.clinic.test/other\r\n\r\n",
  "a host with a user": "GET / HTTP/1.1\r\nHost: x@app.clinic.test\r\n\r\n",
  "a list of hosts": "GET / HTTP/1.1\r\nHost: app.clinic.test, other.clinic.test\r\n\r\n",
  "absolute form with a user": `GET http://app.clinic.test@other.clinic.test/ HTTP/1.1\r\n${host}\r\n`,
  "absolute form of another scheme": `GET ftp://other.clinic.test/ HTTP/1.1\r\n${host}\r\n`,
  "a target that is no path": `GET smuggled HTTP/1.1\r\n${host}\r\n`,
  "a line feed alone in a header": `GET / HTTP/1.1\r\n${host}X-A: 1\nX-B: 2\r\n\r\n`,
  "a carriage return alone in a header": `GET / HTTP/1.1\r\n${host}X-A: 1\rX-B: 2\r\n\r\n`,
  "a null character in a header": `GET / HTTP/1.1\r\n${host}X-A: a\0b\r\n\r\n`,
  "a header without a name": `GET / HTTP/1.1\r\n${host}: 1\r\n\r\n`,
  "a header with a space in its name": `GET / HTTP/1.1\r\n${host}X A: 1\r\n\r\n`,
  "a second protocol in the request line": `GET / HTTP/1.1 HTTP/1.1\r\n${host}\r\n`,
  "HTTP/2 in plain text": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
  "CONNECT through the edge": "CONNECT other.clinic.test:80 HTTP/1.1\r\nHost: other.clinic.test:80\r\n\r\n",
};
for (const [name, bytes] of Object.entries(refused)) {
  test(`${name} is refused and no app sees it`, async () => {
    const text = await rig.raw(bytes);
    assert.doesNotMatch(text, /^HTTP\/1\.1 2|answered/);
    assert.ok(text === "" || /^HTTP\/1\.1 (?:400|405|501) /.test(text), text.slice(0, 200));
    assert.deepEqual(seen, []);
  });
}

/** The first bytes of a body may be on their way already; the message ends with the fault, and so does the connection. */
const badChunks: Record<string, string> = {
  "a size that is no number": "xyz\r\nhello\r\n0\r\n\r\n",
  "a size with 0x": "0x5\r\nhello\r\n0\r\n\r\n",
  "a negative size": "-5\r\nhello\r\n0\r\n\r\n",
  "a size over 2^64": "10000000000000005\r\nhello\r\n0\r\n\r\n",
  "a chunk longer than its size": "3\r\nhello\r\n0\r\n\r\n",
  "line feeds alone": "5\nhello\n0\n\n",
  "an extension with a line feed": "5;a\nb\r\nhello\r\n0\r\n\r\n",
};
for (const [name, body] of Object.entries(badChunks)) {
  test(`a chunked body with ${name} is never taken for a whole one, and nothing behind it for a request`, async () => {
    const text = await rig.raw(post("Transfer-Encoding: chunked\r\n", body + inner));
    assert.doesNotMatch(text, /^HTTP\/1\.1 2/);
    assert.deepEqual(seen, []);
  });
}

test("absolute form names the host, whatever the header says, and the app is told that name", async () => {
  const text = await rig.raw(`GET http://other.clinic.test/x HTTP/1.1\r\n${host}Connection: close\r\n\r\n`);
  assert.match(text, /answered/);
  assert.deepEqual(seen, ["other GET /x other.clinic.test "]);
});

test("naming the length or the host in Connection takes neither away", async () => {
  const text = await rig.raw(
    post("Content-Length: 5\r\nConnection: close, content-length, host\r\n", "hello"),
  );
  assert.match(text, /answered/);
  assert.deepEqual(seen, ["victim POST / app.clinic.test hello"]);
});

test("an offer of HTTP/2 in plain text is not passed on, so no tunnel to the app opens", async () => {
  const upgrade =
    "Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n";
  const text = await rig.raw(`GET / HTTP/1.1\r\n${host}${upgrade}\r\n`);
  assert.match(text, /^HTTP\/1\.1 200 /);
  assert.deepEqual(seen, ["victim GET / app.clinic.test "]);
});

test("two requests on one connection each reach their own host, once", async () => {
  await rig.raw(
    `POST /a HTTP/1.1\r\n${host}Content-Length: 5\r\n\r\nhelloGET /b HTTP/1.1\r\nHost: other.clinic.test\r\nConnection: close\r\n\r\n`,
  );
  // Two apps: which of them is asked first is not said, only the order of the answers is.
  assert.deepEqual([...seen].sort(), [
    "other GET /b other.clinic.test ",
    "victim POST /a app.clinic.test hello",
  ]);
});
