import { PlatformError } from "@platform/contract";
import { nothingDetected, type Detected } from "./detected.ts";
import { isDevelopmentServer, servingOf, type Serving } from "./frameworks.ts";
import type { PackageJson } from "./package-json.ts";
import { nodeInstall, toolsFolder } from "./package-managers.ts";
import { frameworkOf } from "./framework-of.ts";
import type { Tree } from "./tree.ts";

const folders = ["", "src/"];
const stems = ["server", "index", "app", "main"];
const endings = ["js", "mjs", "cjs", "ts", "mts"];
/** Where a server without a start script begins, in this order. */
const entries = folders.flatMap((folder) =>
  stems.flatMap((stem) => endings.map((ending) => `${folder}${stem}.${ending}`)),
);
const listens = /\.listen\s*\(|\bserve\s*\(|createServer\s*\(|Deno\.serve|export default .*fetch/;

/** A start script is run directly, not through npm: one process less, and signals arrive. */
const directScript = (script: string) =>
  `PATH="$PWD/node_modules/.bin:$PATH"; export PATH; ${/&&|;|\||^\w+=/.test(script) ? script : `exec ${script}`}`;

async function entryOf(tree: Tree, pkg: PackageJson): Promise<string | null> {
  const main = pkg.main?.replace(/^\.\//, "");
  for (const path of [...(main ? [main] : []), ...entries])
    if (tree.paths.has(path) && listens.test((await tree.read(path)) ?? "")) return path;
  return tree.paths.has("server.js") ? "server.js" : null;
}

function assertAdapter(slug: string | null, tree: Tree, pkg: PackageJson): void {
  const all = { ...pkg.dependencies, ...pkg.devDependencies };
  const config = ["svelte.config.js", "vite.config.ts", "vite.config.js"].find((name) =>
    tree.paths.has(name),
  );
  if (slug !== "sveltekit-1" || !("@sveltejs/adapter-auto" in all) || "@sveltejs/adapter-node" in all) return;
  throw new PlatformError(
    "FRAMEWORK_ADAPTER_MISSING",
    "SvelteKit's adapter-auto builds nothing here: it serves other platforms. Use @sveltejs/adapter-node for a server, or @sveltejs/adapter-static for files, and publish again.",
    {
      details: {
        step: "plan",
        file: "package.json",
        pointer: "/devDependencies/@sveltejs~1adapter-auto",
        evidence: [`package.json: "@sveltejs/adapter-auto": "${all["@sveltejs/adapter-auto"]}"`],
        patch: [
          {
            type: "json-patch",
            file: "package.json",
            operations: [
              {
                op: "add",
                path: "/devDependencies/@sveltejs~1adapter-node",
                value: /^[\^~]?[3-9]/.test(all["@sveltejs/kit"] ?? "") ? "^6.0.0" : "^5.0.0",
              },
            ],
          },
          {
            type: "edit",
            file: config ?? "svelte.config.js",
            find: "@sveltejs/adapter-auto",
            replace: "@sveltejs/adapter-node",
          },
          // The lockfile does not know the new package.
          { type: "remove", file: "package-lock.json" },
        ],
      },
    },
  );
}

/** @throws PlatformError FRAMEWORK_ADAPTER_MISSING */
export async function detectNode(tree: Tree, pkg: PackageJson): Promise<Detected> {
  const slug = await frameworkOf(tree, (slug) => slug !== "container");
  assertAdapter(slug, tree, pkg);
  const serving = await servingOf(slug, tree, pkg);
  const install = await nodeInstall(tree, pkg);
  const hasPackages = Object.keys({ ...pkg.dependencies, ...pkg.devDependencies }).length > 0;
  const because = [
    ...(slug === null ? [] : [`framework ${slug}`]),
    ...(hasPackages || install.decidedBy.length > 0 ? [install.because] : []),
  ];
  const run = await runOf(tree, pkg, serving, because);
  const build = pkg.scripts["build"] ? "npm run build" : (serving?.build ?? null);
  // Only Node.js is in every box: an app that Bun runs takes it along.
  const needsBun = install.name === "bun" && /\bbunx? /.test(run.start ?? "");
  return {
    ...nothingDetected,
    ...(needsBun ? { startPrefix: 'PATH="$PWD/.tools/node_modules/.bin:$PATH"; export PATH; ' } : {}),
    framework: slug,
    packageManager: install.name,
    tools: install.tools,
    install: needsBun
      ? `${install.command} && ${install.tools!.replace(toolsFolder, ".tools")}`
      : install.command,
    installs:
      !needsBun && isCacheable(pkg, install.decidedBy)
        ? { folder: "node_modules", decidedBy: install.decidedBy }
        : null,
    build,
    ...run,
    because,
  };
}

/** Scripts that run at install may read any file: what they leave is not decided by the lockfile. */
function isCacheable(pkg: PackageJson, decidedBy: readonly string[]): boolean {
  const scripts = ["preinstall", "install", "postinstall", "prepare", "prepublish"];
  const versions = Object.values({ ...pkg.dependencies, ...pkg.devDependencies });
  return (
    decidedBy.length > 0 &&
    !scripts.some((name) => name in pkg.scripts) &&
    !versions.some((version) => /^(file|link|workspace|portal|patch):/.test(version))
  );
}

async function runOf(
  tree: Tree,
  pkg: PackageJson,
  serving: Serving | null,
  because: string[],
): Promise<Pick<Detected, "kind" | "outputs" | "start">> {
  const script = pkg.scripts["start"];
  const isServer = script !== undefined && !isDevelopmentServer(script);
  if (script !== undefined && !isServer)
    because.push(`the start script "${script.slice(0, 100)}" runs a development server: not used`);
  const own = !isServer ? null : pkg.scripts["prestart"] ? "npm start" : directScript(script);
  if (serving?.start) {
    const start =
      own !== null && serving.prefersScript ? own : directScript(serving.start.replace(/^exec /, ""));
    return { kind: "dynamic", outputs: [], start };
  }
  if (serving) {
    if (own !== null && serving.prefersScript)
      return { kind: "dynamic", outputs: serving.outputs, start: own };
    return { kind: "static", outputs: serving.outputs, start: null };
  }
  if (own !== null) return { kind: "dynamic", outputs: [], start: own };
  const entry = await entryOf(tree, pkg);
  if (entry === null) return { kind: null, outputs: [], start: null };
  because.push(`start: ${entry} makes a server`);
  return { kind: "dynamic", outputs: [], start: `exec node ${entry}` };
}
