import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import test, { after, before } from "node:test";
import { chromium, type Browser } from "playwright-core";
import { startOwnPlatform, type OwnPlatform } from "./own-platform.ts";

const program = "/usr/bin/chromium";
const skip = existsSync(program) ? false : "Chromium is not installed (apt-get install chromium)";
const cli = join(import.meta.dirname, "../../apps/cli/src/main.ts");

const server = `const page = \`<!doctype html><title>app</title><button>pay</button><script>
document.querySelector("button").onclick = () => { console.warn("paying"); undefined.pay() };
</script>\`;
require("node:http").createServer((ask, answer) => {
  answer.setHeader("content-type", "text/html");
  answer.end(page);
}).listen(3000, "0.0.0.0");`;

let platform: OwnPlatform;
let browser: Browser;
let home: string;
before(async () => {
  if (skip) return;
  home = mkdtempSync(join(tmpdir(), "console-home-"));
  platform = await startOwnPlatform();
  browser = await chromium.launch({
    executablePath: program,
    args: [
      ...["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"],
      ...["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"],
      "--host-resolver-rules=MAP * 127.0.0.1",
    ],
  });
});
after(async () => {
  await browser?.close();
  await platform?.stop();
  if (home) rmSync(home, { recursive: true, force: true });
});

test("an agent hears by the command line what a click in a private preview broke", { skip }, async () => {
  const id = await platform.sandbox("heard", { "/workspace/server.js": server });
  await platform.must("POST", `/sandboxes/${id}/services`, {
    ...{ name: "web", command: "node server.js", cwd: "/workspace", port: 3000 },
  });
  const preview = await platform.must("POST", `/sandboxes/${id}/previews`, { port: 3000 });
  const followed = spawn(
    process.execPath,
    [cli, "sandbox", "console", "heard", "--follow", "--level", "warn"],
    {
      env: {
        ...{ PATH: process.env["PATH"], HOME: home },
        ...{ MIOSA_ENDPOINT: `${platform.apiUrl}`, MIOSA_API_KEY: platform.apiKey },
      },
      stdio: ["ignore", "pipe", "inherit"],
    },
  );
  try {
    const lines = createInterface({ input: followed.stdout })[Symbol.asyncIterator]();
    const page = await browser.newPage();
    assert.equal((await page.goto(String(preview["share_url"])))?.status(), 200);
    await page.click("button");
    const first = String((await lines.next()).value);
    assert.match(first, / 3000 \/ warn paying$/);
    const second = String((await lines.next()).value);
    assert.match(
      second,
      / 3000 \/ error TypeError: Cannot read properties of undefined \(reading 'pay'\) \(\/:2\)$/,
    );
  } finally {
    followed.kill();
  }
});
