import type { PackageJson } from "./package-json.ts";
import type { Tree } from "./tree.ts";

/** How a framework's app is served. `start` is null for static output. */
export interface Serving {
  readonly build: string | null;
  readonly outputs: readonly string[];
  readonly start: string | null;
  /** Use the app's own start script where it has one that is not a development server. */
  readonly prefersScript: boolean;
}

interface App {
  readonly tree: Tree;
  readonly pkg: PackageJson;
  readonly uses: (name: string) => boolean;
  readonly config: string;
}

const files = (build: string | null, ...outputs: string[]): Serving => ({
  ...{ build, outputs, start: null, prefersScript: true },
});
const server = (build: string | null, start: string, prefersScript = true): Serving => ({
  ...{ build, outputs: [], start, prefersScript },
});
const nitro = (build: string) => server(build, "exec node .output/server/index.mjs", false);

/**
 * What the detector's own data lacks or says for another platform's servers: where output is after a
 * plain build, and what starts a server of our own. By the detector's slugs.
 */
const servings: Readonly<Record<string, (app: App) => Serving>> = {
  nextjs: ({ config }) =>
    /output\s*:\s*["']export["']/.test(config)
      ? { ...files("next build", "out"), prefersScript: false }
      : server("next build", "exec next start"),
  nuxtjs: ({ pkg }) =>
    /\bgenerate\b/.test(pkg.scripts["build"] ?? "")
      ? { ...files("nuxt generate", ".output/public", "dist"), prefersScript: false }
      : nitro("nuxt build"),
  astro: ({ uses }) =>
    uses("@astrojs/node")
      ? server("astro build", "exec node ./dist/server/entry.mjs", false)
      : files("astro build", "dist"),
  "sveltekit-1": ({ uses }) =>
    uses("@sveltejs/adapter-static")
      ? files("vite build", "build")
      : server("vite build", "exec node build", false),
  "react-router": ({ config }) =>
    /ssr\s*:\s*false/.test(config)
      ? { ...files("react-router build", "build/client"), prefersScript: false }
      : server("react-router build", "exec react-router-serve ./build/server/index.js"),
  remix: () => server("remix vite:build", "exec remix-serve ./build/server/index.js"),
  nestjs: () => server("nest build", "exec node dist/main.js", false),
  "solidstart-1": () => nitro("vinxi build"),
  "tanstack-start": () => nitro("vite build"),
  nitro: () => nitro("nitro build"),
  "docusaurus-2": () => files("docusaurus build", "build"),
  eleventy: () => files("eleventy", "_site"),
  vitepress: () => files("vitepress build", ".vitepress/dist", "docs/.vitepress/dist"),
  vuepress: () => files("vuepress build src", "src/.vuepress/dist", "docs/.vuepress/dist"),
  angular: () => files("ng build", "dist/*/browser", "dist/*", "dist"),
  gatsby: () => files("gatsby build", "public"),
  "create-react-app": () => files("react-scripts build", "build"),
  vue: () => files("vue-cli-service build", "dist"),
  vite: () => files("vite build", "dist"),
  parcel: () => files("parcel build", "dist"),
  preact: () => files("preact build", "build"),
  hexo: () => files("hexo generate", "public"),
  stencil: () => files("stencil build", "www"),
  "ionic-angular": () => files("ng build", "www"),
  "ionic-react": () => files(null, "dist", "build"),
  storybook: () => files("storybook build", "storybook-static"),
};

const configNames: Readonly<Record<string, readonly string[]>> = {
  nextjs: ["next.config.js", "next.config.mjs", "next.config.ts"],
  "react-router": ["react-router.config.ts", "react-router.config.js"],
};

/** @returns null for what is no framework with a build of its own, such as an Express server */
export async function servingOf(slug: string | null, tree: Tree, pkg: PackageJson): Promise<Serving | null> {
  const find = slug === null ? undefined : servings[slug];
  if (!find) return null;
  const texts = (configNames[slug!] ?? []).map((name) => tree.read(name));
  const config = (await Promise.all(texts)).map((text) => text ?? "").join("\n");
  const uses = (name: string) => name in pkg.dependencies || name in pkg.devDependencies;
  return find({ tree, pkg, uses, config });
}

/** A server for writing the app, or a preview of static output: neither is what production runs. */
export const isDevelopmentServer = (script: string) =>
  /(^|[\s/;&|])(vite(\s+(dev|preview|serve))?(\s+--?\S.*)?$|react-scripts start|docusaurus (start|serve)|ng serve|gatsby (develop|serve)|vue-cli-service serve|(next|nuxt|nuxi|astro|vinxi|nitro|react-router) (dev|preview)|astro preview|webpack(-dev-server| serve)|parcel(\s+(?!build)\S*)?$|(npx )?@?(11ty\/)?eleventy --serve|vitepress (dev|preview)|storybook dev|live-server|(npx )?(serve|http-server|sirv)\s)/.test(
    script,
  );
