import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { after, before, test } from "node:test";
import { boxes, Rig } from "./testing/rig.ts";

let rig: Rig;
before(async () => {
  rig = await Rig.start();
});
after(() => rig.stop());

const name = "private.clinic.test";
const token = "t0ken-of-this-preview";
const html = { accept: "text/html,*/*;q=0.8" };

async function publishPrivate(): Promise<void> {
  const app = await rig.app((_req, res) => res.end("the app"));
  const accessSha256 = createHash("sha256").update(token).digest("hex");
  const target = boxes(app.upstream);
  assert.equal(target.type, "boxes");
  await rig.publish({ [name]: { ...target, accessSha256 } as typeof target });
}

test("a private preview shows nothing without its token, in the tenant's brand", async () => {
  await publishPrivate();
  const page = await rig.fetch(name, "/", { headers: html });
  assert.equal(page.status, 401);
  assert.match(page.body, /Clinic &lt;IQ&gt;/);
  for (const cookie of ["", "preview_access=wrong", "preview_access="]) {
    const headers = { cookie };
    assert.equal((await rig.fetch(name, "/?ms=wrong", { headers })).status, 401);
  }
});

test("its link works for programs at once, and for browsers through a cookie that is set once", async () => {
  await publishPrivate();
  assert.equal((await rig.fetch(name, `/a?ms=${token}`)).body, "the app");
  const opened = await rig.fetch(name, `/a?b=1&ms=${token}`, { headers: html });
  assert.equal(opened.status, 302);
  assert.equal(opened.headers["location"], "/a?b=1");
  const [cookie] = opened.headers["set-cookie"] ?? [];
  assert.match(cookie ?? "", /HttpOnly; SameSite=Lax/);
  const kept = await rig.fetch(name, "/a?b=1", { headers: { ...html, cookie: cookie!.split(";")[0]! } });
  assert.equal(kept.body, "the app");
});

test("a WebSocket is let in by the token and refused without it, never redirected", async () => {
  await publishPrivate();
  const handshake = (path: string) =>
    rig.raw(
      `GET ${path} HTTP/1.1\r\nHost: ${name}\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n` +
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
  assert.match(await handshake("/live"), /^HTTP\/1\.1 401 /);
  // This app does not speak WebSocket; that its own answer arrives shows that the request did.
  assert.match(await handshake(`/live?ms=${token}`), /the app/);
});
