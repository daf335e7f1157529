import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { Browser } from "playwright-core";
import { WebSocketServer } from "ws";
import { openBrowser, whyNoBrowser } from "./testing/browser.ts";
import { boxes, Rig } from "./testing/rig.ts";

const options = { skip: whyNoBrowser ?? false };
const token = "t0ken-of-this-preview";
let rig: Rig;
let browser: Browser;
let folder: string;
before(async () => {
  if (whyNoBrowser) return;
  folder = await mkdtemp(join(tmpdir(), "preview-browser-"));
  rig = await Rig.start({ EDGE_TLS_PORT: "0", TLS_AUTHORITY_DIR: folder, TLS_AUTHORITY_NAME: "Clinic" });
  browser = await openBrowser();
  const app = await rig.app((req, res) => {
    res.writeHead(200, { "content-type": "text/html" });
    res.end(`<title>app</title><p id="seen">${req.url} ${req.headers.cookie ?? "no cookie"}</p>
<script>const s = new WebSocket(location.origin.replace("http", "ws") + "/live");
s.onopen = () => { document.title = "live" }; s.onclose = () => { document.title = "closed" }</script>`);
  });
  new WebSocketServer({ server: app.server });
  const accessSha256 = createHash("sha256").update(token).digest("hex");
  const target = { ...boxes(app.upstream), accessSha256 } as ReturnType<typeof boxes>;
  const dashboard = await rig.app((req, res) => {
    res.writeHead(200, { "content-type": "text/html" });
    res.end(`<iframe src="${decodeURIComponent((req.url ?? "").slice(2))}"></iframe>`);
  });
  await rig.publish({ "private.clinic.test": target, "dash.other-site.example": dashboard.target });
});
after(async () => {
  await browser?.close();
  await rig?.stop();
  if (folder) await rm(folder, { recursive: true, force: true });
});

for (const scheme of ["http", "https"] as const)
  test(
    `20 reloads of a private preview over ${scheme} all answer 200, each with its WebSocket`,
    options,
    async () => {
      const context = await browser.newContext();
      const page = await context.newPage();
      const port = scheme === "https" ? rig.edge.tlsPort : rig.edge.port;
      const origin = `${scheme}://private.clinic.test:${port}`;
      assert.equal((await page.goto(`${origin}/a`))?.status(), 401);
      const opened = await page.goto(`${origin}/a?x=1&ms=${token}`);
      assert.equal(opened?.status(), 200);
      assert.equal(page.url(), `${origin}/a?x=1`, "the token leaves the address bar");
      const statuses: (number | undefined)[] = [];
      for (let n = 0; n < 20; n++) {
        statuses.push((await page.reload())?.status());
        await page.waitForFunction("document.title === 'live'");
      }
      assert.deepEqual(statuses, Array<number>(20).fill(200));
      assert.equal(await page.textContent("#seen"), "/a?x=1 no cookie", "the app sees no token");
      await context.close();
    },
  );

test("it opens in a frame of a dashboard on another site, and its WebSocket too", options, async () => {
  const context = await browser.newContext();
  const page = await context.newPage();
  const framed = `https://private.clinic.test:${rig.edge.tlsPort}/?ms=${token}`;
  await page.goto(`https://dash.other-site.example:${rig.edge.tlsPort}/?${encodeURIComponent(framed)}`);
  const frame = page.frames().find((one) => one.parentFrame() !== null)!;
  await frame.waitForFunction("document.title === 'live'");
  assert.equal(await frame.textContent("#seen"), "/ no cookie");
  await context.close();
});

test("the page that waits opens the app by itself, without a reload by the visitor", options, async () => {
  const app = await rig.app((_req, res) => {
    res.writeHead(200, { "content-type": "text/html" }).end("<p>the app is awake</p>");
  });
  await rig.publish({ "nap.clinic.test": { type: "wake", accessSha256: null } });
  const page = await browser.newPage();
  assert.equal((await page.goto(`http://nap.clinic.test:${rig.edge.port}/`))?.status(), 503);
  // Its policy lets no text be run as a script: functions of the test's own are no such text.
  await page
    .locator('progress[value="2"], progress[value="3"], progress[value="4"]')
    .waitFor({ timeout: 60_000 });
  await rig.publish({ "nap.clinic.test": boxes(app.upstream) });
  await page.locator("text=the app is awake").waitFor({ timeout: 60_000 });
  await page.close();
});
