import { existsSync } from "node:fs";
import { chromium, type Browser } from "playwright-core";

const program = "/usr/bin/chromium";

/** Why no browser test can run here; null: they can. */
export const whyNoBrowser = existsSync(program)
  ? null
  : "Chromium is not installed (apt-get install chromium); the set-up of slow tests does it";

/**
 * Debian's Chromium without a window, which asks nobody on the internet anything.
 */
export function openBrowser(): Promise<Browser> {
  return chromium.launch({
    executablePath: program,
    args: [
      ...["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"],
      ...["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"],
      // Names of tests resolve nowhere else.
      ...["--host-resolver-rules=MAP * 127.0.0.1", "--ignore-certificate-errors"],
    ],
  });
}
