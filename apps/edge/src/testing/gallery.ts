import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { Brand } from "@platform/edge-api";
import { pageKinds, renderPage, type PageKind } from "../pages/index.ts";

const picture = (svg: string) => `data:image/svg+xml;base64,${Buffer.from(svg).toString("base64")}`;

const clinicLogo = (ink: string) =>
  picture(
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64"><rect width="64" height="64" rx="16" fill="#0f766e"/><path d="M27 14h10v13h13v10H37v13H27V37H14V27h13z" fill="${ink}"/></svg>`,
  );
const bayLogo = (ink: string) =>
  picture(
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64"><path d="M4 44c10-12 18-12 28 0s18 12 28 0v14H4z" fill="#f59e0b"/><circle cx="44" cy="20" r="12" fill="${ink}"/></svg>`,
  );

/** Two tenants whose looks have nothing in common. */
export const galleryBrands: Readonly<Record<"clinic" | "bay", Brand>> = {
  clinic: Brand.parse({
    tenantId: "t-clinic",
    name: "ClinicIQ",
    domain: "cliniciq.example",
    colorPrimary: "#0f766e",
    logo: clinicLogo("#ffffff"),
    favicon: clinicLogo("#ffffff"),
    supportUrl: "https://cliniciq.example/help",
    legalLinks: [
      { label: "Imprint", url: "https://cliniciq.example/imprint" },
      { label: "Privacy", url: "https://cliniciq.example/privacy" },
    ],
  }),
  bay: Brand.parse({
    tenantId: "t-bay",
    name: "Builder Bay",
    domain: "builderbay.example",
    // Hardly to be read on its own ground: the page has to mend that.
    colorPrimary: "#f59e0b",
    colorBackground: "#fffbeb",
    colorAccent: "#d97706",
    fontFamily: "Georgia, serif",
    logo: bayLogo("#7c2d12"),
    logoLight: bayLogo("#fde68a"),
    supportEmail: "help@builderbay.example",
    language: "es",
  }),
};
export type GalleryTenant = keyof typeof galleryBrands;

export const galleryKinds = Object.keys(pageKinds) as PageKind[];

const requestId = "5f0c2a4e-6f7b-4a53-9d1e-0c2b7a9e4d11";
const waits: Partial<Record<PageKind, { waitedSec: number; limitSec: number; isOver: boolean }>> = {
  starting: { waitedSec: 42, limitSec: 120, isOver: false },
  start_failed: { waitedSec: 120, limitSec: 120, isOver: true },
};

/** Serves every page as the edge renders it, with its policy, at `/TENANT/KIND/LANGUAGE`. */
export async function startGallery(): Promise<{ url: string; stop(): Promise<void> }> {
  const server = createServer((req, res) => {
    const [, tenant = "", kind = "", language = "en"] = (req.url ?? "").split("/");
    const brand = galleryBrands[tenant as GalleryTenant];
    if (!brand || !Object.hasOwn(pageKinds, kind)) {
      res.writeHead(404).end();
      return;
    }
    const page = renderPage(
      { type: "html" },
      {
        kind: kind as PageKind,
        brand,
        detail: null,
        requestId,
        language: language as "en",
        wait: waits[kind as PageKind] ?? null,
      },
    );
    // A browser retries nothing and keeps the page whatever its status is.
    res.writeHead(page.status, page.headers).end(page.body);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    stop: async () => {
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeAllConnections();
      await closed;
    },
  };
}
