import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { waitFor } from "@platform/daemon";
import type { ConsoleEntry, RouteTarget } from "@platform/edge-api";
import type { Browser, Page } from "playwright-core";
import { openBrowser, whyNoBrowser } from "../testing/browser.ts";
import { boxes, Rig } from "../testing/rig.ts";

const options = { skip: whyNoBrowser ?? false };
let rig: Rig;
let browser: Browser;
let hosts = 0;
before(async () => {
  if (whyNoBrowser) return;
  rig = await Rig.start();
  browser = await openBrowser();
});
after(async () => {
  await browser?.close();
  await rig?.stop();
});

interface Opened {
  readonly page: Page;
  readonly origin: string;
  readonly heard: () => ConsoleEntry[];
  readonly dropped: () => number;
  /** What the browser itself shows a developer. */
  readonly shown: string[];
  /** Waits for an entry. */
  until(what: Partial<ConsoleEntry>): Promise<ConsoleEntry>;
}

/** Opens an app whose page is `body`, behind a preview of its own. */
async function open(body: string, headers: Record<string, string> = {}): Promise<Opened> {
  const hostname = `app-${++hosts}.clinic.test`;
  const app = await rig.app((req, res) => {
    const path = req.url ?? "/";
    if (path === "/") res.writeHead(200, { "content-type": "text/html", ...headers }).end(body);
    else if (path.startsWith("/refused")) res.writeHead(403).end("no");
    else if (path === "/thrower.js")
      res.writeHead(200, { "content-type": "text/javascript" }).end("\nlet a;\na.b.c = 1;");
    else res.writeHead(path === "/ok" ? 200 : 404).end("{}");
  });
  await rig.publish({ [hostname]: { ...boxes(app.upstream), console: true } as RouteTarget });
  const page = await browser.newPage();
  const shown: string[] = [];
  page.on("console", (message) => shown.push(message.text()));
  const origin = `http://${hostname}:${rig.edge.port}`;
  assert.equal((await page.goto(`${origin}/`))?.status(), 200);
  const batches = () => rig.controlPlane.consoles.filter((one) => one.hostname === hostname);
  const heard = () => batches().flatMap(({ entries }) => entries);
  const fits = (what: Partial<ConsoleEntry>) =>
    heard().find((entry) =>
      Object.entries(what).every(([name, value]) => entry[name as keyof ConsoleEntry] === value),
    );
  return {
    ...{ page, origin, heard, shown },
    dropped: () => batches().reduce((sum, one) => sum + one.dropped, 0),
    until: async (what) => {
      await waitFor(JSON.stringify(what), () => fits(what) !== undefined, 30_000).catch((cause: unknown) => {
        throw new Error(`not heard: ${JSON.stringify(what)}, but ${JSON.stringify(heard())}`, { cause });
      });
      return fits(what)!;
    },
  };
}

test("each way in which a page complains is heard, and the page notices nothing", options, async () => {
  const { page, until, heard, shown } =
    await open(`<!doctype html><html><head><title>app</title></head><body><script>
    window.seen = document.querySelectorAll("script").length + " " + document.head.children.length;
    console.log("%s has %d %c lines", "it", 7.9, "color: red", { deep: { list: [1, "two", null] } });
    console.warn("careful", new Map(), undefined);
    console.error("failed:", new TypeError("no such thing"));
    const circle = { get own() { window.wasRead = true; return 1 } }; circle.self = circle;
    console.info(circle); console.debug("quiet"); console.assert(1 === 2, "one is not two");
    Promise.reject(new RangeError("nobody waits"));
  </script><script src="/thrower.js"></script><img src="/missing.png?token=secret"></body></html>`);
  await until({ level: "log", kind: "console", text: 'it has 7  lines {deep: {list: [1, "two", null]}}' });
  await until({ level: "warn", text: "careful Map {} undefined" });
  const failed = await until({ level: "error", kind: "console", text: "failed: TypeError: no such thing" });
  assert.match(failed.stack!, /TypeError: no such thing\n/);
  await until({ level: "info", text: "{own: [getter], self: [circular]}" });
  await until({ level: "debug", text: "quiet" });
  await until({ level: "error", text: "Assertion failed: one is not two" });
  await until({ kind: "rejection", text: "RangeError: nobody waits" });
  const thrown = await until({ kind: "exception" });
  assert.match(thrown.text, /TypeError: Cannot read properties of undefined/);
  assert.deepEqual([thrown.source, thrown.line, thrown.page], ["/thrower.js", 3, "/"]);
  await until({ kind: "resource", text: "<img> did not load: /missing.png" });
  assert.ok(!JSON.stringify(heard()).includes("secret"));
  assert.equal(await page.evaluate("window.seen"), "1 1", "its own script is all that the page finds");
  assert.equal(await page.evaluate("window.wasRead"), undefined, "no getter of the page ran");
  assert.ok(
    shown.some((text) => text.includes("careful")),
    "the developer still sees the console",
  );
  await page.close();
});

test("requests that fail are heard, those that work or were cancelled are not", options, async () => {
  const { page, until, heard } = await open("<title>app</title>");
  const answers = await page.evaluate(`(async () => {
    const results = [];
    results.push((await fetch("/refused?key=secret", { method: "post" })).status, (await fetch("/ok")).status);
    results.push(await fetch(new Request("http://closed.test:1/x?key=secret")).catch((error) => error.name));
    const stop = new AbortController(); stop.abort();
    results.push(await fetch("/ok", { signal: stop.signal }).catch((error) => error.name));
    const asked = new XMLHttpRequest(); asked.open("PUT", "/absent");
    await new Promise((resolve) => { asked.onloadend = resolve; asked.send(); });
    results.push(asked.status, window.fetch.name, window.fetch.length);
    console.log("the end");
    return results;
  })()`);
  assert.deepEqual(answers, [403, 200, "TypeError", "AbortError", 404, "fetch", 1]);
  await until({ text: "the end" });
  const failed = heard().filter(({ kind }) => kind === "request");
  assert.deepEqual(
    failed.map(({ method, source, status }) => [method, source, status]),
    [
      ["POST", "/refused", 403],
      ["GET", "http://closed.test:1/x", null],
      ["PUT", "/absent", 404],
    ],
  );
  await page.close();
});

test("what a page says as it is left still arrives", options, async () => {
  const { page, until, origin } = await open("<title>app</title>");
  await page.evaluate(`addEventListener("pagehide", () => console.error("good-bye"), true)`);
  await page.goto(`${origin}/ok`);
  await until({ text: "good-bye" });
  await page.close();
});

test("a page with a strict policy is heard by its nonce, and reports no violation", options, async () => {
  const { page, until, shown } = await open(
    `<!doctype html><script nonce="abc123">console.log("with a nonce")</script>`,
    {
      "content-security-policy":
        "default-src 'none'; script-src 'nonce-abc123' 'strict-dynamic'; connect-src 'self'; require-trusted-types-for 'script'",
    },
  );
  await until({ text: "with a nonce" });
  assert.deepEqual(
    shown.filter((text) => /Content Security Policy|Trusted/i.test(text)),
    [],
  );
  await page.close();
});

test("a page whose policy forbids it works as ever, and that it is not heard is said", options, async () => {
  const { page, until, heard, shown } = await open(
    `<!doctype html><script nonce="abc123">console.log("unheard"); document.title = "works"</script>`,
    { "content-security-policy": "default-src 'none'; script-src 'nonce-abc123'" },
  );
  const { text } = await until({ kind: "notice" });
  assert.match(text, /connect-src/);
  assert.equal(await page.title(), "works");
  assert.deepEqual(shown, ["unheard"]);
  assert.equal(heard().length, 1);
  await page.close();
});

test("a page that floods its console goes on, and what was left out is counted", options, async () => {
  const { page, until, heard, dropped } = await open("<title>app</title>");
  await page.evaluate(`for (let n = 0; n < 5000; n++) console.log("line " + n, "x".repeat(20000))`);
  await until({ text: `line 0 ${"x".repeat(3_993)}…` });
  await waitFor("the count", () => heard().length + dropped() === 5_000, 60_000);
  assert.ok(heard().length <= 300, `${heard().length} lines`);
  assert.ok(heard().every(({ text }) => text.length <= 4_096));
  await page.close();
});
