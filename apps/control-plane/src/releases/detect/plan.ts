import { posix } from "node:path";
import type { PublishFields } from "@platform/contract";
import { parse as parseYaml } from "yaml";
import { z } from "zod";
import type { Detected } from "./detected.ts";
import { manifestProblem, startMissing } from "./refusals.ts";
import type { Tree } from "./tree.ts";

/** What will be done to turn the frozen files into a bundle. */
export interface Plan {
  readonly kind: "static" | "dynamic";
  readonly root: string;
  readonly framework: string | null;
  readonly packageManager: string | null;
  /** Brings the package manager, which later commands may call by name. */
  readonly tools: string | null;
  readonly install: string | null;
  /** What the install leaves, and the files that decide it: kept for the next build with the same files. */
  readonly installs: Detected["installs"];
  readonly build: string | null;
  /** Settings of a Dockerfile for the build; those for the run are in `start`. */
  readonly env: Readonly<Record<string, string>>;
  /** Folders to look in for static output, in this order, below `root`; `*` stands for one folder. */
  readonly outputs: readonly string[];
  /** True when the caller or manifest named the output: nothing else will be taken instead. */
  readonly outputNamed: boolean;
  readonly start: string | null;
  readonly port: number | null;
  readonly healthCheckPath: string | null;
  readonly requiredEnv: readonly string[];
  /** Where each decision came from, for the build log and the manifest of the release. */
  readonly because: readonly string[];
}

/** The app manifest and what the other files say. */
export interface AppFiles {
  readonly manifest: { readonly name: string; readonly text: string } | undefined;
  readonly detected: Detected;
  /** Where the app is, in the box. */
  readonly root: string;
  readonly tree: Tree;
}

const text = z.string().min(1).optional();
const Manifest = z.looseObject({
  schema_version: z.number().optional(),
  name: z.string().optional(),
  workdir: text,
  workspace: text,
  root: text,
  install: z.union([z.string(), z.boolean()]).optional(),
  install_command: z.union([z.string(), z.boolean()]).optional(),
  build: z.union([z.string(), z.boolean()]).optional(),
  build_command: z.union([z.string(), z.boolean()]).optional(),
  start: text,
  start_command: text,
  run: text,
  run_command: text,
  port: z.coerce.number().int().min(1).max(65_535).optional(),
  output: text,
  output_path: text,
  readiness: z.looseObject({ path: text, port: z.coerce.number().int().optional() }).optional(),
  probe_path: text,
  health_check_path: text,
  requirements: z
    .looseObject({ config: z.array(z.string()).optional(), secrets: z.array(z.string()).optional() })
    .optional(),
  capabilities: z
    .looseObject({
      secrets: z.array(z.looseObject({ name: z.string(), required: z.boolean().optional() })).optional(),
    })
    .optional(),
});
type Manifest = z.output<typeof Manifest>;

export const manifestNames = ["miosa.app.yml", "miosa.app.yaml", "miosa.app.json"] as const;

export function parseManifest(file: { name: string; text: string }): Manifest {
  let value: unknown;
  try {
    value = parseYaml(file.text);
  } catch (cause) {
    const line = (cause as { linePos?: { line: number }[] }).linePos?.[0]?.line ?? 1;
    throw manifestProblem(file, { pointer: "", message: `line ${line} is no YAML`, line, cause });
  }
  const result = Manifest.safeParse(value ?? {});
  if (!result.success) {
    const { path, message } = result.error.issues[0]!;
    throw manifestProblem(file, { pointer: path.map((part) => `/${String(part)}`).join(""), message });
  }
  if (result.data.schema_version !== undefined && result.data.schema_version !== 1) {
    const message = `${result.data.schema_version} is not known; use 1`;
    throw manifestProblem(file, { pointer: "/schema_version", message, value: 1 });
  }
  return result.data;
}

const firstText = (...values: (string | boolean | undefined | null)[]) =>
  values.find((value): value is string => typeof value === "string" && value !== "");

/** The caller's or manifest's word; `undefined` if neither says anything, `null` for "none". */
function said(field: string | false | undefined, ...manifest: (string | boolean | undefined)[]) {
  if (field === false) return null;
  if (field) return field;
  const given = manifest.find((value) => value !== undefined && value !== true && value !== "");
  return given === false ? null : (given as string | undefined);
}

function kindOf(
  asked: string | undefined,
  wanted: string | undefined,
  detected: Detected,
  because: string[],
) {
  if (asked === "static") return "static";
  if (asked === "dynamic" || asked === "server") return "dynamic";
  if (wanted !== undefined || detected.kind === "dynamic") {
    because.push("kind dynamic: there is a start command");
    return "dynamic";
  }
  because.push(`kind static: ${detected.framework ?? "there is no start command"}`);
  return "static";
}

const ordinaryOutputs = ["dist", "build", "out", "public", "_site", ".output/public"];

function outputsOf(detected: Detected, build: string | null): string[] {
  const usual = build ? ordinaryOutputs : [".", ...ordinaryOutputs];
  return [...new Set([...detected.outputs, ...usual])];
}

const quote = (value: string) => `'${value.replaceAll("'", `'\\''`)}'`;

function fullStart(start: string, detected: Detected): string {
  const exports = Object.entries(detected.env).filter(([name]) => name !== "PORT");
  const settings = exports.map(([name, value]) => `${name}=${quote(value)}`).join(" ");
  return `${settings === "" ? "" : `export ${settings}; `}${detected.startPrefix}${start}`;
}

/** Below /workspace, where the manifest says so. */
function rootOf(manifest: Manifest): string {
  const wanted = manifest.workdir ?? manifest.workspace ?? manifest.root ?? "/workspace";
  const path = posix.resolve("/workspace", wanted);
  return path.startsWith("/workspace/") ? path : "/workspace";
}

/** The folder that the manifest names as the app's, below the frozen files; empty for all of them. */
export function appFolder(manifest: { name: string; text: string } | undefined): string {
  return manifest ? rootOf(parseManifest(manifest)).slice("/workspace/".length) : "";
}

/**
 * Decides by what the caller said, then the manifest, then the files. Pure.
 *
 * @throws PlatformError MANIFEST_INVALID, START_COMMAND_MISSING
 */
export function planBuild(fields: PublishFields, files: AppFiles): Plan {
  const because: string[] = [];
  const { detected } = files;
  const manifest: Manifest = files.manifest ? parseManifest(files.manifest) : {};
  const asked = firstText(
    fields.kind === "auto" ? undefined : fields.kind,
    fields.deployment_type,
    fields.type,
    fields.mode,
  );
  const wanted = firstText(
    fields.run_command,
    fields.start_command,
    manifest.start,
    manifest.start_command,
    manifest.run,
    manifest.run_command,
  );
  const kind = kindOf(asked, wanted, detected, because);
  const start = wanted ?? detected.start;
  if (kind === "dynamic" && !start) throw startMissing(detected, files.tree.paths.has("index.html"));
  const saidInstall = said(fields.install_command, manifest.install, manifest.install_command);
  const saidBuild = said(fields.build_command, manifest.build, manifest.build_command);
  const build = saidBuild === undefined ? detected.build : saidBuild;
  const output = firstText(
    fields.output_path,
    fields.path,
    fields.source_snapshot_path,
    manifest.output,
    manifest.output_path,
  );
  if (kind === "static" && !asked && !output && !build && isServerSource(files))
    throw startMissing(detected, false);
  return {
    kind,
    root: files.root,
    framework: detected.framework,
    packageManager: detected.packageManager,
    tools: detected.tools,
    install: saidInstall === undefined ? detected.install : saidInstall,
    installs: saidInstall === undefined ? detected.installs : null,
    build,
    env: detected.env,
    outputs: output ? [output] : outputsOf(detected, build),
    outputNamed: output !== undefined,
    start: kind === "dynamic" ? fullStart(start!, detected) : null,
    port:
      kind === "dynamic"
        ? (fields.port ?? manifest.port ?? manifest.readiness?.port ?? detected.port ?? 3000)
        : null,
    healthCheckPath:
      kind === "dynamic"
        ? (fields.health_check_path ??
          manifest.readiness?.path ??
          manifest.probe_path ??
          manifest.health_check_path ??
          "/")
        : null,
    requiredEnv: requiredEnv(manifest),
    because: [...because, ...detected.because, ...(files.manifest ? [`read ${files.manifest.name}`] : [])],
  };
}

/** Files that only a server makes sense of: packages, and no page. */
const isServerSource = ({ tree, detected }: AppFiles) =>
  detected.packageManager !== null &&
  detected.kind === null &&
  !["", ...ordinaryOutputs].some((folder) => tree.paths.has(posix.join(folder, "index.html")));

const requiredEnv = (manifest: Manifest): string[] => [
  ...new Set([
    ...(manifest.requirements?.config ?? []),
    ...(manifest.requirements?.secrets ?? []),
    ...(manifest.capabilities?.secrets ?? []).filter((one) => one.required !== false).map((one) => one.name),
  ]),
];
