import assert from "node:assert/strict";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { request } from "node:https";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { connect, createSecureContext } from "node:tls";
import { WebSocket, WebSocketServer } from "ws";
import { Rig } from "../testing/rig.ts";
import { CertificateStore, type CertificateSource } from "./index.ts";

let rig: Rig;
let authority: string;
before(async () => {
  ({ rig, authority } = await Rig.startTls());
});
after(() => rig.stop());

function get(hostname: string): Promise<{ body: string; names: string; issuer: string }> {
  return new Promise((resolve, reject) => {
    const options = {
      host: "127.0.0.1",
      port: rig.edge.tlsPort!,
      servername: hostname,
      ca: authority,
      agent: false,
    };
    const sent = request({ ...options, headers: { host: hostname } }, (response) => {
      const certificate = (response.socket as ReturnType<typeof connect>).getPeerCertificate();
      let body = "";
      response.setEncoding("utf8").on("data", (part: string) => (body += part));
      response.on("end", () =>
        resolve({
          body,
          names: certificate.subjectaltname ?? "",
          issuer: certificate.issuer["CN"] as string,
        }),
      );
    });
    sent.on("error", reject);
    sent.end();
  });
}

test("a tenant's name is served under TLS with a certificate for it, and the app learns of it", async () => {
  const app = await rig.app((req, res) =>
    res.end(`${req.headers["x-forwarded-proto"]} ${req.headers["x-forwarded-port"]}`),
  );
  await rig.publish({ "3000-a.sandbox.clinic.test": app.target, "clinic.test": app.target });
  const deep = await get("3000-a.sandbox.clinic.test");
  assert.deepEqual(deep, {
    body: "https 443",
    names: "DNS:*.sandbox.clinic.test, DNS:sandbox.clinic.test",
    issuer: "Clinic development",
  });
  assert.equal((await get("clinic.test")).names, "DNS:clinic.test");
  assert.equal((await rig.fetch("clinic.test")).body.split(" ")[0], "http", "HTTP goes on beside it");
});

test("a name that nobody owns gets no certificate", async () => {
  await assert.rejects(get("other.example"), { code: "EPROTO" });
});

test("a WebSocket passes under TLS", async () => {
  const app = await rig.app((_req, res) => res.end());
  new WebSocketServer({ server: app.server }).on("connection", (socket) => {
    socket.on("message", (data) => socket.send(`echo ${String(data)}`));
  });
  await rig.publish({ "ws.clinic.test": app.target });
  const socket = new WebSocket(`wss://127.0.0.1:${rig.edge.tlsPort}/`, {
    headers: { host: "ws.clinic.test" },
    ca: authority,
    ...{ servername: "ws.clinic.test" },
  });
  await once(socket, "open");
  socket.send("hi");
  const [answer] = (await once(socket, "message")) as [Buffer];
  assert.equal(String(answer), "echo hi");
  socket.terminate();
});

test("contexts are built once for a key, not kept when that failed, and built anew after a renewal", async () => {
  const asked: string[] = [];
  let isBroken = true;
  const source: CertificateSource = {
    keyOf: (hostname) => (hostname.endsWith(".test") ? "test" : null),
    certificate: async (key) => {
      asked.push(key);
      if (isBroken) throw new Error("no certificate now");
      return { certificate: authority, key: await keyOf() };
    },
  };
  const keyOf = async () => {
    const pem = await readFile(join(rig.folder, "authority", "authority.pem"), "utf8");
    return pem.slice(pem.indexOf("-----BEGIN PRIVATE"));
  };
  const store = new CertificateStore([source]);
  await assert.rejects(store.contextFor("a.test"), /no certificate now/);
  isBroken = false;
  const [first, second] = await Promise.all([store.contextFor("a.test"), store.contextFor("b.test")]);
  assert.equal(first, second);
  assert.ok(first instanceof (createSecureContext().constructor as new () => object));
  assert.deepEqual(asked, ["test", "test"]);
  store.clear();
  assert.notEqual(await store.contextFor("a.test"), first);
  assert.equal(await store.contextFor("a.example"), null);
});
