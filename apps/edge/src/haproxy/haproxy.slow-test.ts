import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { connect as http2Connect } from "node:http2";
import { request } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { buildBundle, openArtifactStore } from "@platform/bundle";
import { waitFor } from "@platform/daemon";
import { Rig } from "../testing/rig.ts";
import { connect, type TLSSocket } from "node:tls";
import { authorityName, openAuthority } from "@platform/certificates";
import { sealCertificate } from "@platform/edge-api";
import { brand, EDGE_TOKEN } from "../testing/control-plane.ts";
import { WebSocket, WebSocketServer } from "ws";
import { findProgram } from "./index.ts";

const skip = findProgram("haproxy") ? false : "haproxy is not installed";
/** Suites of the edge that say the same about both data planes. */
const suites = [
  "drain.test.ts",
  "proxy/headers.test.ts",
  "proxy/service.test.ts",
  "static/static.test.ts",
  "tls/tls.test.ts",
  "tls/issued.test.ts",
  "http2/http2.test.ts",
  "http2/smuggling.test.ts",
];

for (const suite of suites)
  test(`the suite ${suite} passes with HAProxy in front`, { skip, timeout: 600_000 }, () => {
    const { PATH, HOME, TMPDIR } = process.env;
    const run = spawnSync(process.execPath, ["--test", join(import.meta.dirname, "..", suite)], {
      env: { PATH, HOME, TMPDIR, EDGE_TEST_DATA_PLANE: "haproxy" },
      encoding: "utf8",
      timeout: 590_000,
    });
    assert.equal(run.status, 0, run.stdout.slice(-4_000));
  });

test(
  "a hot host is answered past the Node edge, until its route changes",
  { skip, timeout: 120_000 },
  async (t) => {
    const rig = await Rig.start({ EDGE_DATA_PLANE: "haproxy" });
    t.after(() => rig.stop());
    const first = await rig.app((req, res) => res.end(`first ${String(req.headers["x-forwarded-for"])}`));
    const second = await rig.app((_req, res) => res.end("second"));
    await rig.publish({ "app.clinic.test": first.target });
    assert.equal((await rig.fetch("app.clinic.test")).body, "first 127.0.0.1");
    // A frozen Node edge answers nothing; what still comes is HAProxy's.
    await waitFor(
      "HAProxy to know the host",
      async () => {
        rig.edge.child.kill("SIGSTOP");
        const answer = await Promise.race([
          rig.fetch("app.clinic.test").catch(() => null),
          new Promise<null>((resolve) => setTimeout(() => resolve(null), 200)),
        ]);
        rig.edge.child.kill("SIGCONT");
        return answer?.body === "first 127.0.0.1";
      },
      60_000,
      500,
    );
    const large = (bytes: number) =>
      `GET / HTTP/1.1\r\nHost: app.clinic.test\r\nAccept: text/html\r\nConnection: close\r\nX-Large: ${"a".repeat(bytes)}\r\n\r\n`;
    const refused = await rig.raw(large(70_000));
    assert.match(refused, /^HTTP\/1\.1 431 /);
    assert.match(refused, /Clinic/, "by the Node edge, which knows the tenant");
    await rig.publish({ "app.clinic.test": second.target });
    for (let i = 0; i < 20; i++) assert.equal((await rig.fetch("app.clinic.test")).body, "second");
  },
);

test(
  "files come out of HAProxy's memory as the Node edge gives them",
  { skip, timeout: 180_000 },
  async (t) => {
    const rig = await Rig.start({ EDGE_DATA_PLANE: "haproxy" });
    t.after(() => rig.stop());
    const host = "site.clinic.test";
    const serve = async (word: string) => {
      const folder = await mkdtemp(join(tmpdir(), "edge-files-"));
      t.after(() => rm(folder, { recursive: true, force: true }));
      await mkdir(join(folder, "assets"));
      await writeFile(join(folder, "index.html"), `<p>${word}</p>`.repeat(200));
      await writeFile(join(folder, "assets", "app-4f3a9c1b.js"), `"${word}";`.repeat(200));
      const store = await openArtifactStore(join(rig.folder, "artifacts"));
      const declaration = { kind: "static" as const, startCommand: null, port: null, healthCheckPath: null };
      const { digest } = await buildBundle(store, folder, { ...declaration, env: [] });
      return { type: "static" as const, digest, spaFallback: true };
    };
    const [first, second] = [await serve("first"), await serve("second")];
    const seen = async (path: string, headers: Record<string, string> = {}) => {
      const { status, headers: all, body } = await rig.fetch(host, path, { headers });
      const { connection: _, "keep-alive": __, "transfer-encoding": ___, ...rest } = all;
      return { status, headers: rest, body };
    };
    /** Nobody but HAProxy can answer while the Node edge stands still. */
    const frozen = async <T>(work: () => Promise<T>) => {
      rig.edge.child.kill("SIGSTOP");
      try {
        return await Promise.race([
          work().catch(() => null),
          new Promise<null>((resolve) => setTimeout(() => resolve(null), 300)),
        ]);
      } finally {
        rig.edge.child.kill("SIGCONT");
      }
    };
    const asked: readonly (readonly [string, Record<string, string>])[] = [
      ["/", {}],
      ["/", { "accept-encoding": "gzip" }],
      ["/assets/app-4f3a9c1b.js", {}],
      ["/assets/app-4f3a9c1b.js?v=1", { "accept-encoding": "br" }],
    ];
    await rig.publish({ [host]: first });
    for (const [path, headers] of asked) {
      const kept = async () => {
        const direct = await seen(path, headers);
        const memory = await frozen(() => seen(path, headers));
        return memory ? { direct, memory } : undefined;
      };
      const { direct, memory } = await waitFor(`${path} in memory`, kept, 60_000, 200);
      assert.deepEqual(memory, direct);
      assert.deepEqual(
        [memory.status, memory.headers["content-encoding"]],
        [200, headers["accept-encoding"]],
      );
      const immutable = "public, max-age=31536000, immutable";
      assert.equal(memory.headers["cache-control"], path === "/" ? "no-cache" : immutable);
      const tag = { ...headers, "if-none-match": direct.headers["etag"] as string };
      assert.equal((await frozen(() => seen(path, tag)))?.status, 304);
    }
    const html = { accept: "text/html", "sec-fetch-mode": "navigate" };
    assert.equal((await seen("/patients", html)).status, 200);
    assert.equal((await seen("/patients", { accept: "*/*" })).status, 404, "no page in place of a script");
    assert.equal((await seen("/", { range: "bytes=0-4" })).status, 206);
    assert.equal((await seen("/", { "x-edge-fill": "x" })).headers["x-edge-cache-control"], undefined);
    await rig.publish({ [host]: second });
    for (const [path, headers] of asked.filter(([, { "accept-encoding": coded }]) => !coded))
      for (let i = 0; i < 5; i++) assert.match((await seen(path, headers)).body, /second/);
    await rig.publish({ [host]: first });
    for (let i = 0; i < 5; i++) assert.match((await seen("/")).body, /first/);
  },
);

test(
  "HAProxy answers handshakes of a name that was asked for, by HTTP/1.1, HTTP/2 and as a WebSocket",
  { skip, timeout: 180_000 },
  async (t) => {
    const { rig, authority: ca } = await Rig.startTls({ EDGE_DATA_PLANE: "haproxy" });
    t.after(() => rig.stop());
    const app = await rig.app(({ headers }, res) =>
      res.end(["proto", "port", "for"].map((name) => String(headers[`x-forwarded-${name}`])).join(" ")),
    );
    new WebSocketServer({ server: app.server }).on("connection", (socket) => {
      socket.on("message", (data) => socket.send(`echo ${String(data)}`));
    });
    const hostname = "tls.clinic.test";
    await rig.publish({ [hostname]: app.target });
    const at = { host: "127.0.0.1", port: rig.edge.tlsPort!, ca };
    const get = (servername: string) =>
      new Promise<{ body: string; names: string }>((resolve, reject) => {
        const options = { ...at, servername, agent: false, headers: { host: servername } };
        const sent = request(options, (response) => {
          const names = (response.socket as TLSSocket).getPeerCertificate().subjectaltname ?? "";
          let body = "";
          response.setEncoding("utf8").on("data", (part: string) => (body += part));
          response.on("end", () => resolve({ body, names }));
        });
        sent.setTimeout(2_000, () => sent.destroy(new Error("no answer")));
        sent.on("error", reject).end();
      });
    const expected = { body: "https 443 127.0.0.1", names: "DNS:*.clinic.test, DNS:clinic.test" };
    assert.deepEqual(await get(hostname), expected, "by the Node edge");
    // A frozen Node edge shakes no hands.
    const alone = async () => {
      rig.edge.child.kill("SIGSTOP");
      const answer = await get(hostname).catch(() => null);
      rig.edge.child.kill("SIGCONT");
      return answer ?? undefined;
    };
    assert.deepEqual(await waitFor("HAProxy to have the certificate", alone, 60_000, 300), expected);
    const byHttp2 = await new Promise<string>((resolve, reject) => {
      const session = http2Connect(`https://${hostname}`, { ...at, servername: hostname });
      session.on("error", reject).once("connect", () => {
        rig.edge.child.kill("SIGSTOP");
        let body = "";
        const stream = session.request({ ":path": "/" });
        stream.setTimeout(2_000, () => stream.destroy(new Error("no answer")));
        stream.setEncoding("utf8").on("data", (part: string) => (body += part));
        stream.on("error", reject).on("end", () => {
          session.destroy();
          resolve(body);
        });
      });
    }).finally(() => rig.edge.child.kill("SIGCONT"));
    assert.equal(byHttp2, expected.body);
    const socket = new WebSocket(`wss://127.0.0.1:${at.port}/`, {
      headers: { host: hostname },
      ca,
      ...{ servername: hostname },
    });
    await once(socket, "open");
    socket.send("hi");
    assert.equal(String(((await once(socket, "message")) as [Buffer])[0]), "echo hi");
    socket.terminate();
    await assert.rejects(get("other.example"), { code: "EPROTO" });
    // Its route is gone: HAProxy still has the certificate, and the Node edge says what there is to say.
    await rig.publish({ [hostname]: null });
    assert.match((await get(hostname)).body, /404/);
  },
);

test(
  "a certificate that HAProxy serves is exchanged or taken back before the change counts as applied",
  { skip, timeout: 180_000 },
  async (t) => {
    const rig = await Rig.start({ EDGE_DATA_PLANE: "haproxy", EDGE_TLS_PORT: "0" });
    t.after(() => rig.stop());
    const authority = await openAuthority(join(rig.folder, "authority"), authorityName("Test"));
    const hostname = "shop.customer.test";
    await rig.publish({ [hostname]: { type: "page", page: "maintenance", detail: null } });
    const give = async (version: number, isThere: boolean) => {
      const pair = await authority.issue(hostname, [hostname]);
      const sealed = isThere ? sealCertificate(EDGE_TOKEN, "one", pair!) : null;
      const dates = { notBefore: Date.now() - 1_000, notAfter: Date.now() + 3_600_000 };
      const entry = { id: "one", tenantId: brand.tenantId, source: "acme" as const, names: [hostname] };
      const certificates = [{ ...entry, ...dates, version, sealed }];
      rig.controlPlane.publishCertificates({
        ...{ version, full: version === 1, more: false, certificates, challenges: [] },
      });
      const isApplied = () => rig.controlPlane.certificatesApplied.includes(version);
      await waitFor(`acknowledgement of ${version}`, isApplied, 20_000);
    };
    const served = () =>
      new Promise<string>((resolve, reject) => {
        const options = { host: "127.0.0.1", port: rig.edge.tlsPort!, servername: hostname };
        const socket = connect({ ...options, ca: authority.certificate }, () => {
          resolve(socket.getPeerCertificate().serialNumber);
          socket.destroy();
        });
        socket.setTimeout(500, () => socket.destroy(new Error("no handshake")));
        socket.on("error", reject);
      });
    const byHaproxy = async () => {
      await served();
      rig.edge.child.kill("SIGSTOP");
      const serial = await served().catch(() => undefined);
      rig.edge.child.kill("SIGCONT");
      return serial;
    };
    const seen = new Set<string>();
    for (let version = 1; version <= 3; version++) {
      await give(version, true);
      const serial = await served();
      assert.ok(!seen.has(serial), "the new one at once");
      seen.add(serial);
      assert.equal(await waitFor("HAProxy to serve it", byHaproxy, 60_000, 300), serial);
    }
    await give(4, false);
    await assert.rejects(served());
  },
);
