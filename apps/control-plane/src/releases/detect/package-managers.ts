import { parse as parseYaml } from "yaml";
import type { PackageJson } from "./package-json.ts";
import type { Tree } from "./tree.ts";

const versions = { pnpm: "10.34.8", yarn1: "1.22.22", yarn: "4.18.1", bun: "1.4.5" } as const;
export const toolsFolder = "/home/user/.tools";

export interface NodeInstall {
  readonly name: "npm" | "pnpm" | "yarn" | "bun";
  readonly tools: string | null;
  readonly command: string;
  readonly decidedBy: readonly string[];
  readonly because: string;
}

/** Also puts them before others in PATH, as build scripts may call them by name. */
const bring = (...packages: string[]) =>
  `npm install --silent --no-audit --no-fund --no-update-notifier --prefix ${toolsFolder} ${packages.join(" ")}`;

/** The exact version that `packageManager` asks for. */
function pinned(pkg: PackageJson, name: string): string | null {
  const match = /^(\w+)@(\d+\.\d+\.\d+[\w.-]*)/.exec(pkg.packageManager ?? "");
  return match?.[1] === name ? match[2]! : null;
}

async function yarn(tree: Tree, pkg: PackageJson): Promise<NodeInstall> {
  const lock = (await tree.read("yarn.lock")) ?? "";
  const version = pinned(pkg, "yarn") ?? (lock.includes("__metadata:") ? versions.yarn : versions.yarn1);
  const decidedBy = ["package.json", "yarn.lock", ".yarnrc", ".yarnrc.yml"];
  const because = `yarn ${version}: there is a yarn.lock`;
  if (version.startsWith("1.")) {
    const tools = bring(`yarn@${version}`);
    const command = "yarn install --frozen-lockfile --non-interactive";
    return { name: "yarn", tools, command, decidedBy, because };
  }
  const rc = (parseYaml((await tree.read(".yarnrc.yml")) ?? "") ?? {}) as Record<string, unknown>;
  // A release runs without yarn, so its packages must be where Node.js itself looks for them.
  const settings =
    "YARN_NODE_LINKER=node-modules YARN_ENABLE_TELEMETRY=0 YARN_IGNORE_PATH=1 YARN_ENABLE_GLOBAL_CACHE=1 " +
    'YARN_HTTP_PROXY="$HTTP_PROXY" YARN_HTTPS_PROXY="$HTTPS_PROXY" YARN_HTTPS_CA_FILE_PATH="$npm_config_cafile"';
  const plugNPlay = rc["nodeLinker"] === "pnp" ? "; its Plug'n'Play is replaced by node_modules" : "";
  return {
    name: "yarn",
    tools: `${bring(`@yarnpkg/cli-dist@${version}`)} && ln -sf ../@yarnpkg/cli-dist/bin/yarn.js ${toolsFolder}/node_modules/.bin/yarn`,
    command: `${settings} yarn install --immutable`,
    decidedBy,
    because: because + plugNPlay,
  };
}

/** The package manager by lockfile, else by `packageManager`, else npm. */
export async function nodeInstall(tree: Tree, pkg: PackageJson): Promise<NodeInstall> {
  const has = (name: string) => tree.paths.has(name);
  if (has("pnpm-lock.yaml") || pinned(pkg, "pnpm")) {
    const version = pinned(pkg, "pnpm") ?? versions.pnpm;
    const frozen = has("pnpm-lock.yaml") ? " --frozen-lockfile" : " --no-frozen-lockfile";
    return {
      name: "pnpm",
      tools: bring(`pnpm@${version}`),
      // Hard links into a store outside of the app would not survive the move into a release.
      command: `pnpm install --package-import-method copy --config.manage-package-manager-versions=false${frozen}`,
      decidedBy: has("pnpm-lock.yaml")
        ? ["package.json", "pnpm-lock.yaml", "pnpm-workspace.yaml", ".npmrc"]
        : [],
      because: `pnpm ${version}: ${has("pnpm-lock.yaml") ? "there is a pnpm-lock.yaml" : "package.json asks for it"}`,
    };
  }
  if (has("yarn.lock")) return yarn(tree, pkg);
  if (has("bun.lock") || has("bun.lockb")) {
    const lock = has("bun.lock") ? "bun.lock" : "bun.lockb";
    const version = pinned(pkg, "bun") ?? versions.bun;
    return {
      name: "bun",
      tools: bring(`bun@${version}`),
      command: "bun install --frozen-lockfile",
      // The older format is binary, and is not read here.
      decidedBy: lock === "bun.lock" ? ["package.json", lock, "bunfig.toml"] : [],
      because: `bun ${version}: there is a ${lock}`,
    };
  }
  const lock = ["package-lock.json", "npm-shrinkwrap.json"].find(has);
  return {
    name: "npm",
    tools: null,
    command: lock ? "npm ci --no-audit --no-fund" : "npm install --no-audit --no-fund",
    decidedBy: lock ? ["package.json", lock, ".npmrc"] : [],
    because: lock
      ? `npm: there is a ${lock}`
      : "npm: there is no lockfile, so each build may install other versions",
  };
}
