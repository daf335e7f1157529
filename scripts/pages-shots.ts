// `npm run pages:shots`: every page of the edge, as two tenants' visitors see it, into docs/pages/.
import { mkdir, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { openBrowser, whyNoBrowser } from "../apps/edge/src/testing/browser.ts";
import {
  galleryBrands,
  galleryKinds,
  startGallery,
  type GalleryTenant,
} from "../apps/edge/src/testing/gallery.ts";

if (whyNoBrowser) {
  console.error(`✗ ${whyNoBrowser}`);
  process.exit(1);
}
const folder = join(import.meta.dirname, "..", "docs", "pages");
const sizes = { desktop: { width: 960, height: 600 }, phone: { width: 390, height: 680 } };
/** What else than the light look is kept. */
const dark = new Set(["not_found", "starting", "error", "private"]);

const gallery = await startGallery();
const browser = await openBrowser();
await rm(folder, { recursive: true, force: true });
let bytes = 0;
try {
  for (const tenant of Object.keys(galleryBrands) as GalleryTenant[]) {
    await mkdir(join(folder, tenant), { recursive: true });
    const language = galleryBrands[tenant].language ?? "en";
    for (const [size, viewport] of Object.entries(sizes))
      for (const colorScheme of ["light", "dark"] as const) {
        const context = await browser.newContext({ viewport, colorScheme, reducedMotion: "reduce" });
        const page = await context.newPage();
        for (const kind of galleryKinds) {
          if (colorScheme === "dark" && !dark.has(kind)) continue;
          await page.goto(`${gallery.url}/${tenant}/${kind}/${language}`);
          const name = `${kind}-${size}${colorScheme === "dark" ? "-dark" : ""}.png`;
          await page.screenshot({ path: join(folder, tenant, name) });
          bytes += (await stat(join(folder, tenant, name))).size;
        }
        await context.close();
      }
  }
} finally {
  await browser.close();
  await gallery.stop();
}
const rows = galleryKinds.map((kind) => {
  const cell = (tenant: GalleryTenant) =>
    Object.keys(sizes)
      .map((size) => `[${size}](${tenant}/${kind}-${size}.png)`)
      .concat(
        dark.has(kind)
          ? Object.keys(sizes).map((size) => `[${size}, dark](${tenant}/${kind}-${size}-dark.png)`)
          : [],
      )
      .join(", ");
  return `| \`${kind}\` | ${cell("clinic")} | ${cell("bay")} |`;
});
await writeFile(
  join(folder, "README.md"),
  `# Every page of the edge\n\nMade by \`npm run pages:shots\` with Debian's Chromium, for two tenants with different looks (the second one in Spanish).\n\n| page | ClinicIQ | Builder Bay |\n| --- | --- | --- |\n${rows.join("\n")}\n`,
);
console.log(`${galleryKinds.length} pages, ${Math.round(bytes / 1024)} KiB`);
