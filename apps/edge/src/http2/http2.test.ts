import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, constants, type ClientHttp2Session, type IncomingHttpHeaders } from "node:http2";
import { after, before, test, type TestContext } from "node:test";
import { waitFor } from "@platform/daemon";
import { Rig } from "../testing/rig.ts";

let rig: Rig;
let authority: string;
before(async () => {
  ({ rig, authority } = await Rig.startTls());
});
after(() => rig.stop());

async function open(t: TestContext, hostname: string): Promise<ClientHttp2Session> {
  const session = connect(`https://${hostname}`, {
    host: "127.0.0.1",
    port: rig.edge.tlsPort!,
    servername: hostname,
    ca: authority,
  });
  t.after(() => session.destroy());
  session.on("error", () => undefined); // Each request says what became of it.
  await once(session, "connect");
  return session;
}

interface Got {
  readonly headers: IncomingHttpHeaders & { ":status"?: number };
  readonly trailers: IncomingHttpHeaders;
  readonly body: string;
}

function ask(
  session: ClientHttp2Session,
  headers: Record<string, string | string[]>,
  body?: string,
): Promise<Got> {
  return new Promise((resolve, reject) => {
    const stream = session.request(headers, { endStream: body === undefined });
    let got: Got["headers"] = {};
    let trailers: IncomingHttpHeaders = {};
    let text = "";
    stream.on("response", (seen) => (got = seen));
    stream.on("trailers", (seen) => (trailers = seen));
    stream.setEncoding("utf8").on("data", (part: string) => (text += part));
    stream.on("error", reject);
    stream.on("end", () => resolve({ headers: got, trailers, body: text }));
    if (body !== undefined) stream.end(body);
  });
}

test("a request by HTTP/2 reaches the app as one by HTTP/1.1, body, cookies and all", async (t) => {
  const app = await rig.app((req, res) => {
    let body = "";
    req.setEncoding("utf8").on("data", (part: string) => (body += part));
    req.on("end", () => {
      res.writeHead(201, "Fine", [
        ...["set-cookie", "a=1", "set-cookie", "b=2", "connection", "close", "x-app", "yes"],
        ...["content-type", "application/json"],
      ]);
      res.end(JSON.stringify({ method: req.method, url: req.url, headers: req.headers, body }));
    });
  });
  await rig.publish({ "h2.clinic.test": app.target });
  const session = await open(t, "h2.clinic.test");
  const got = await ask(
    session,
    {
      ":method": "POST",
      ":authority": "h2.clinic.test",
      ":path": "/a?b=1",
      cookie: "x=1; y=2",
      te: "trailers",
      "x-forwarded-for": "9.9.9.9",
    },
    "hello",
  );
  const seen = JSON.parse(got.body) as { headers: Record<string, string>; [key: string]: unknown };
  assert.deepEqual([got.headers[":status"], got.headers["x-app"]], [201, "yes"]);
  assert.deepEqual(got.headers["set-cookie"], ["a=1", "b=2"]);
  assert.equal(got.headers["connection"], undefined);
  assert.deepEqual([seen["method"], seen["url"], seen["body"]], ["POST", "/a?b=1", "hello"]);
  const { headers } = seen;
  assert.equal(headers["host"], "h2.clinic.test");
  assert.equal(headers["cookie"], "x=1; y=2");
  assert.equal(headers["x-forwarded-proto"], "https");
  assert.equal(headers["x-forwarded-for"], "127.0.0.1", "what the client claims is dropped");
  assert.ok(!Object.keys(headers).some((name) => name.startsWith(":") || name === "te"));
});

test("an answer streams as it comes, and trailers pass", async (t) => {
  let release: () => void = () => undefined;
  const released = new Promise<void>((resolve) => (release = resolve));
  const app = await rig.app((_req, res) => {
    res.writeHead(200, { "content-type": "application/grpc-web", trailer: "grpc-status" });
    res.write("first");
    void released.then(() => {
      res.addTrailers({ "grpc-status": "0" });
      res.end("last");
    });
  });
  await rig.publish({ "stream.clinic.test": app.target });
  const session = await open(t, "stream.clinic.test");
  const stream = session.request({ ":path": "/" });
  stream.setEncoding("utf8");
  const [part] = (await once(stream, "data")) as [string];
  assert.equal(part, "first", "before the answer has ended");
  const trailers = once(stream, "trailers") as Promise<[IncomingHttpHeaders]>;
  release();
  assert.equal((await trailers)[0]["grpc-status"], "0");
});

test("an answer that breaks off does not look like one that ended", async (t) => {
  const app = await rig.app((_req, res) => {
    res.writeHead(200, { "content-type": "text/plain" });
    res.write("half");
    setImmediate(() => res.socket?.destroy());
  });
  await rig.publish({ "cut.clinic.test": app.target });
  const session = await open(t, "cut.clinic.test");
  await assert.rejects(ask(session, { ":path": "/" }), { code: "ERR_HTTP2_STREAM_ERROR" });
});

test("two hosts that differ, and a name without a route, get the pages that they get by HTTP/1.1", async (t) => {
  const session = await open(t, "none.clinic.test");
  const missing = await ask(session, { ":path": "/" });
  assert.deepEqual([missing.headers[":status"], missing.headers["x-edge-page"]], [404, "not-found"]);
  const double = await ask(session, {
    ":path": "/",
    ":authority": "none.clinic.test",
    host: "h2.clinic.test",
  });
  assert.equal(double.headers[":status"], 400);
});

test("a client that opens streams only to reset them is sent away; others go on", async (t) => {
  const app = await rig.app((_req, res) => res.end("ok"));
  await rig.publish({ "reset.clinic.test": app.target });
  const session = await open(t, "reset.clinic.test");
  const isGone = () => session.destroyed || session.closed;
  /** An answer to it says that everything sent before has arrived; what is reset unsent arrives nowhere. */
  const arrived = () =>
    new Promise<void>((resolve) => {
      if (isGone()) resolve();
      else session.ping(() => resolve());
    });
  // Ten times what may be reset at once, and no more: while the edge is slow, whatever waits here costs memory.
  for (let round = 0; round < 40 && !isGone(); round++) {
    const streams = Array.from({ length: 50 }, () => session.request({ ":path": "/" }, { endStream: false }));
    for (const stream of streams) stream.on("error", () => undefined); // Its end is what the test is about.
    await arrived();
    for (const stream of streams) stream.close(constants.NGHTTP2_CANCEL);
    await arrived();
  }
  await waitFor("the edge to send the client away", isGone, 60_000);
  const other = await open(t, "reset.clinic.test");
  assert.equal((await ask(other, { ":path": "/" })).body, "ok");
});

test("a flood of headers is refused, and the edge goes on", async (t) => {
  const app = await rig.app((_req, res) => res.end("ok"));
  await rig.publish({ "flood.clinic.test": app.target });
  const session = await open(t, "flood.clinic.test");
  const many = Object.fromEntries(
    Array.from({ length: 1_000 }, (_, index) => [`x-header-${index}`, "v".repeat(100)]),
  );
  const refused = await ask(session, { ":path": "/", ...many }).then(
    (got) => got.headers[":status"]! >= 400,
    () => true,
  );
  assert.ok(refused);
  const other = await open(t, "flood.clinic.test");
  assert.equal((await ask(other, { ":path": "/" })).body, "ok");
});

test("at its end the edge lets requests by HTTP/2 finish and takes no more", async (t) => {
  let release: () => void = () => undefined;
  let arrived = false;
  const app = await rig.app((_req, res) => {
    arrived = true;
    release = () => res.end("whole");
  });
  await rig.publish({ "drain.clinic.test": app.target });
  const session = await open(t, "drain.clinic.test");
  const answer = ask(session, { ":path": "/" });
  await waitFor("the request at the app", () => arrived, 20_000);
  const goodbye = once(session, "goaway");
  rig.edge.child.kill("SIGTERM");
  await goodbye;
  release();
  assert.equal((await answer).body, "whole");
  assert.equal(await rig.edge.exited, 0);
});
