import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { boxes, Rig } from "../testing/rig.ts";
import { pageKinds, type PageKind } from "./kinds.ts";
import { htmlPage } from "./html.ts";
import { languages, type Language } from "./texts/index.ts";
import { brand } from "../testing/control-plane.ts";

let rig: Rig;
const pixel = "data:image/png;base64,iVBORw0KGgo=";
before(async () => {
  rig = await Rig.start();
});
after(() => rig.stop());

const html = { accept: "text/html,*/*;q=0.8" };

test("a look of an app's own wins over its tenant's, and is gone with it", async () => {
  const target = { type: "page", page: "stopped", detail: null } as const;
  const own = { ...brand, name: "Shop", appId: "deployment-of-shop.clinic.test" };
  rig.controlPlane.brands = [brand, own];
  await rig.publish({ "shop.clinic.test": target, "other.clinic.test": target });
  const titleOf = async (name: string) =>
    /<title>(.*)<\/title>/.exec((await rig.fetch(name, "/", { headers: html })).body)![1];
  assert.match((await titleOf("shop.clinic.test"))!, /Shop$/);
  assert.match((await titleOf("other.clinic.test"))!, /Clinic/);
  rig.controlPlane.brands = [brand];
  await rig.publish({ "shop.clinic.test": target });
  assert.match((await titleOf("shop.clinic.test"))!, /Clinic/);
});

test("logo, font and icon are inside the page; its policy lets nothing else in", async () => {
  const links = [{ label: "Terms & more", url: "https://clinic.test/terms" }];
  rig.controlPlane.brands = [
    { ...brand, logo: pixel, favicon: pixel, font: "data:font/woff2;base64,d09GMg==", legalLinks: links },
  ];
  await rig.publish({ "look.clinic.test": { type: "page", page: "over_quota", detail: null } });
  const page = await rig.fetch("look.clinic.test", "/", { headers: { ...html, "accept-language": "de-CH" } });
  assert.match(page.body, /<html lang="de">/);
  assert.equal(page.headers["content-language"], "de");
  assert.match(page.body, /hat ihr Limit erreicht/);
  assert.match(page.body, /src="data:image\/png/);
  assert.match(page.body, /Terms &amp; more/);
  assert.match(String(page.headers["content-security-policy"]), /^default-src 'none';/);
  assert.doesNotMatch(page.body, /(?:src|url\()=?["']?https?:/);
  const icon = await rig.fetch("look.clinic.test", "/favicon.ico");
  assert.equal(icon.status, 200);
  assert.equal(icon.headers["content-type"], "image/png");
  const robots = await rig.fetch("nobody.clinic.test", "/robots.txt");
  assert.equal(robots.status, 200);
  assert.match(robots.body, /Disallow: \//);
});

test("a crawler that meets an app which is down for a moment is told to come again", async () => {
  const app = await rig.app((_req, res) => res.end());
  await app.stop();
  await rig.publish({ "down.clinic.test": boxes(app.upstream) });
  assert.equal((await rig.fetch("down.clinic.test", "/robots.txt")).status, 503);
});

test("a page of the tenant's own is filled in, everything escaped", async () => {
  const pages = {
    stopped: '<h1>{{title}} at {{name}}</h1><p>{{ detail }}{{unknown}}</p><a href="{{support_url}}">?</a>',
    "stopped.fr": "<h1>Fermé</h1>",
  };
  rig.controlPlane.brands = [{ ...brand, pages }];
  const detail = "<b>{{name}}</b>";
  await rig.publish({ "own.clinic.test": { type: "page", page: "stopped", detail } });
  const page = await rig.fetch("own.clinic.test", "/", { headers: html });
  assert.match(page.body, /<h1>This app is stopped at Clinic &lt;IQ&gt;<\/h1>/);
  assert.match(page.body, /<p>&lt;b&gt;\{\{name\}\}&lt;\/b&gt;<\/p>/);
  assert.match(page.body, /<a href="https:\/\/clinic\.test\/help">/);
  const french = await rig.fetch("own.clinic.test", "/", { headers: { ...html, "accept-language": "fr" } });
  assert.match(french.body, /<h1>Fermé<\/h1>/);
});

test("a page that waits looks again, shows how far it is, and gives up saying why", async () => {
  const wait = (since: number) => ({ type: "page", page: "starting", detail: "step 3", since }) as const;
  await rig.publish({ "slow.clinic.test": wait(Date.now() - 20_000), "dead.clinic.test": wait(1) });
  const waiting = await rig.fetch("slow.clinic.test", "/", { headers: html });
  assert.equal(waiting.status, 503);
  assert.match(waiting.body, /<progress [^>]*max="120" value="2\d"/);
  const [, hash] = /script-src '(sha256-[^']+)'/.exec(String(waiting.headers["content-security-policy"]))!;
  assert.ok(hash);
  const dead = await rig.fetch("dead.clinic.test", "/", { headers: { ...html, "x-request-id": "r-9" } });
  assert.equal(dead.headers["x-edge-page"], "start-failed");
  assert.match(dead.body, /step 3/);
  assert.match(dead.body, /r-9/);
  assert.doesNotMatch(dead.body, /<script|http-equiv="refresh"/);
});

test("assets get what they are, event streams an event, WebSockets a status", async () => {
  await rig.publish({ "m.clinic.test": { type: "page", page: "maintenance", detail: null } });
  const get = (path: string, headers: Record<string, string>) =>
    rig.fetch("m.clinic.test", path, { headers });
  const picture = await get("/logo.png", { accept: "*/*" });
  assert.equal(picture.headers["content-type"], "image/gif");
  assert.equal(picture.headers["content-length"], "42");
  const events = await get("/live", { accept: "text/event-stream" });
  assert.match(String(events.headers["content-type"]), /^text\/event-stream/);
  assert.match(events.body, /^retry: 120000\nevent: error\ndata: \{"type":"error",.*\}\n\n$/);
  const socket = await rig.raw(
    "GET /live HTTP/1.1\r\nHost: m.clinic.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nAccept: text/html\r\n" +
      "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
  );
  assert.match(socket, /^HTTP\/1\.1 503 /);
  assert.match(socket, /retry-after: 120/i);
  assert.match(socket, /"code":"MAINTENANCE"/);
  assert.doesNotMatch(socket, /location:/i);
});

test("every page says in every language what is the matter and what to do", () => {
  for (const language of Object.keys(languages) as Language[])
    for (const kind of Object.keys(pageKinds) as PageKind[]) {
      const page = htmlPage({ kind, brand, detail: null, requestId: "r", language });
      const { title, message, action } = languages[language].pages[kind];
      assert.ok(title && message && action, `${kind} in ${language}`);
      assert.equal(page.match(/<h1>/g)?.length, 1);
      assert.match(page, /<main>/);
    }
});
