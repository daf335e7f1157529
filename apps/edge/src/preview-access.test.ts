import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import type { IncomingMessage } from "node:http";
import { after, before, test } from "node:test";
import { waitFor } from "@platform/daemon";
import { boxes, Rig } from "./testing/rig.ts";

let rig: Rig;
before(async () => {
  rig = await Rig.start();
});
after(() => rig.stop());

const name = "private.clinic.test";
const token = "t0ken-of-this-preview";
const html = { accept: "text/html,*/*;q=0.8" };

/** `seen`: the request as it came to the app. */
async function publishPrivate(): Promise<{ seen: IncomingMessage[] }> {
  const seen: IncomingMessage[] = [];
  const app = await rig.app((req, res) => {
    seen.push(req);
    res.end("the app");
  });
  app.server.on("upgrade", (req: IncomingMessage, socket) => {
    seen.push(req);
    const accept = createHash("sha1")
      .update(`${req.headers["sec-websocket-key"]}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`)
      .digest("base64");
    const [chosen] = String(req.headers["sec-websocket-protocol"] ?? "").split(",");
    socket.end(
      `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n` +
        (chosen ? `Sec-WebSocket-Protocol: ${chosen}\r\n\r\n` : "\r\n"),
    );
  });
  const accessSha256 = createHash("sha256").update(token).digest("hex");
  const target = boxes(app.upstream);
  assert.equal(target.type, "boxes");
  await rig.publish({ [name]: { ...target, accessSha256 } as typeof target });
  return { seen };
}

test("a private preview shows nothing without its token, in the tenant's brand", async () => {
  await publishPrivate();
  const page = await rig.fetch(name, "/", { headers: html });
  assert.equal(page.status, 401);
  assert.match(page.body, /Clinic &lt;IQ&gt;/);
  for (const cookie of ["", "edge_preview=wrong", "edge_preview="]) {
    const headers = { cookie };
    assert.equal((await rig.fetch(name, "/?ms=wrong", { headers })).status, 401);
  }
});

test("its link works for programs at once, and for browsers through a cookie that is set once", async () => {
  const { seen } = await publishPrivate();
  assert.equal((await rig.fetch(name, `/a?ms=${token}`)).body, "the app");
  assert.equal(seen.at(-1)!.url, "/a", "the app does not see the token");
  const opened = await rig.fetch(name, `/a?b=1&ms=${token}&c=%20`, { headers: html });
  assert.equal(opened.status, 302);
  assert.equal(opened.headers["location"], "/a?b=1&c=%20");
  const [cookie] = opened.headers["set-cookie"] ?? [];
  assert.equal(cookie, `edge_preview=${token}; Path=/; HttpOnly; SameSite=Lax`);
  const headers = { ...html, cookie: `theme=dark; edge_preview=planted; ${cookie!.split(";")[0]!}` };
  const kept = await rig.fetch(name, "/a?b=1", { headers });
  assert.equal(kept.body, "the app");
  assert.equal(kept.headers["set-cookie"], undefined);
  assert.equal(seen.at(-1)!.headers.cookie, "theme=dark", "nor in its cookies");
});

test("behind TLS the cookie works in a frame of another site and no neighbour can set it", async () => {
  await rig.edge.stop();
  await rig.startEdge({ TRUST_FORWARDED: "1" });
  try {
    await publishPrivate();
    const headers = { ...html, "x-forwarded-proto": "https", "sec-fetch-dest": "iframe" };
    const opened = await rig.fetch(name, `//evil.example/?ms=${token}`, { headers });
    assert.equal(opened.headers["location"], "/evil.example/", "never to another host");
    assert.deepEqual(opened.headers["set-cookie"], [
      `__Host-edge_preview=${token}; Path=/; Secure; HttpOnly; SameSite=None; Partitioned`,
    ]);
    const with_ = (cookie: string) => rig.fetch(name, "/", { headers: { ...headers, cookie } });
    assert.equal((await with_(`__Host-edge_preview=${token}`)).status, 200);
    assert.equal((await with_(`edge_preview=${token}`)).status, 401);
  } finally {
    await rig.edge.stop();
    await rig.startEdge();
  }
});

test("a WebSocket is let in by the token in its query, cookie or subprotocol, refused without it, never redirected", async () => {
  const { seen } = await publishPrivate();
  const handshake = (path: string, more = "") =>
    rig.raw(
      `GET ${path} HTTP/1.1\r\nHost: ${name}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nAccept: text/html\r\n` +
        `Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n${more}\r\n`,
    );
  for (const refused of [await handshake("/live"), await handshake("/live?ms=wrong")]) {
    assert.match(refused, /^HTTP\/1\.1 401 /);
    assert.match(refused, /"code":"PREVIEW_PRIVATE"/);
    assert.doesNotMatch(refused, /location:/i);
  }
  assert.match(await handshake(`/live?ms=${token}`), /^HTTP\/1\.1 101 /);
  assert.match(await handshake("/live", `Cookie: edge_preview=${token}\r\n`), /^HTTP\/1\.1 101 /);
  const offered = (protocols: string) => handshake("/live", `Sec-WebSocket-Protocol: ${protocols}\r\n`);
  const alone = await offered(`preview-access.${token}`);
  assert.match(alone, /^HTTP\/1\.1 101 /);
  assert.match(alone, new RegExp(`sec-websocket-protocol: preview-access\\.${token}\r\n`, "i"));
  assert.equal(seen.at(-1)!.headers["sec-websocket-protocol"], undefined);
  const beside = await offered(`vite-hmr, preview-access.${token}`);
  assert.match(beside, /sec-websocket-protocol: vite-hmr\r\n/i);
  assert.equal(seen.at(-1)!.headers["sec-websocket-protocol"], "vite-hmr");
  assert.match(await offered("preview-access.wrong"), /^HTTP\/1\.1 401 /);
});

test("a link that is over opens nothing, and one that holds opens only its own preview", async () => {
  const sha = (text: string) => createHash("sha256").update(text).digest("hex");
  const app = await rig.app((_req, res) => res.end("the app"));
  const target = { ...boxes(app.upstream), accessSha256: sha(token) } as ReturnType<typeof boxes>;
  const grants = [
    { sha256: sha("over"), until: Date.now() - 1_000 },
    { sha256: sha("good"), until: Date.now() + 3_600_000 },
  ];
  await rig.publish({
    "3000-s.clinic.test": { ...target, grants } as typeof target,
    "4000-s.clinic.test": target,
  });
  assert.equal((await rig.fetch("3000-s.clinic.test", "/?ms=good")).status, 200);
  assert.equal((await rig.fetch("3000-s.clinic.test", "/?ms=over")).status, 401);
  assert.equal((await rig.fetch("4000-s.clinic.test", "/?ms=good")).status, 401);
});

test("a request that waits for a sleeping private app is let in once it is awake", async () => {
  const app = await rig.app((req, res) => res.end(req.url));
  const accessSha256 = createHash("sha256").update(token).digest("hex");
  await rig.publish({ "nap.clinic.test": { type: "wake", accessSha256 } });
  const held = rig.fetch("nap.clinic.test", `/x?ms=${token}`);
  await waitFor("wake", () => rig.controlPlane.wakes.includes("nap.clinic.test"), 20_000);
  const target = boxes(app.upstream);
  await rig.publish({ "nap.clinic.test": { ...target, accessSha256 } as typeof target });
  assert.equal((await held).body, "/x");
});
