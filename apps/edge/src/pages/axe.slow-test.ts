import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";
import type { AxeResults } from "axe-core";
import type { Browser } from "playwright-core";
import { openBrowser, whyNoBrowser } from "../testing/browser.ts";
import { galleryBrands, galleryKinds, startGallery, type GalleryTenant } from "../testing/gallery.ts";

const options = { skip: whyNoBrowser ?? false };
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

let browser: Browser;
let gallery: Awaited<ReturnType<typeof startGallery>>;
before(async () => {
  if (whyNoBrowser) return;
  gallery = await startGallery();
  browser = await openBrowser();
});
after(async () => {
  await browser?.close();
  await gallery?.stop();
});

for (const tenant of Object.keys(galleryBrands) as GalleryTenant[])
  for (const colorScheme of ["light", "dark"] as const)
    test(`no page of ${tenant} has a fault that axe knows, on a ${colorScheme} ground`, options, async () => {
      const context = await browser.newContext({ colorScheme, viewport: { width: 390, height: 720 } });
      const page = await context.newPage();
      const refused: string[] = [];
      page.on("console", (message) => {
        if (/Content.Security.Policy/i.test(message.text())) refused.push(message.text());
      });
      const faults: string[] = [];
      for (const [index, kind] of galleryKinds.entries()) {
        const language = ["en", "es", "fr", "de"][index % 4]!;
        await page.goto(`${gallery.url}/${tenant}/${kind}/${language}`);
        await page.evaluate(axe);
        const { violations } = (await page.evaluate("axe.run()")) as AxeResults;
        for (const { id, nodes } of violations)
          faults.push(`${kind} ${language}: ${id} at ${nodes[0]?.html}`);
        const wide = await page.evaluate("document.documentElement.scrollWidth > innerWidth");
        if (wide) faults.push(`${kind} ${language}: wider than a phone`);
      }
      assert.deepEqual(faults, []);
      assert.deepEqual(refused, [], "the policy lets everything in that the page has");
      await context.close();
    });
