import { PlatformError, type PublishFields } from "@platform/contract";
import { parse as parseYaml } from "yaml";
import { z } from "zod";

/** What will be done to turn the frozen files into a bundle. */
export interface Plan {
  readonly kind: "static" | "dynamic";
  readonly root: string;
  readonly install: string | null;
  readonly build: string | null;
  /** Folders to look in for static output, in this order, below `root`. */
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

/** The files that decide, as found at the app's root; absent ones are undefined. */
export interface AppFiles {
  readonly manifest: { readonly name: string; readonly text: string } | undefined;
  readonly packageJson: string | undefined;
  readonly names: ReadonlySet<string>;
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
    throw new PlatformError(
      "MANIFEST_INVALID",
      `${file.name} cannot be read: ${(cause as Error).message.split("\n")[0]}.`,
      { details: { step: "plan", file: file.name }, cause },
    );
  }
  const result = Manifest.safeParse(value ?? {});
  if (!result.success) {
    const issue = result.error.issues[0]!;
    throw new PlatformError("MANIFEST_INVALID", `${file.name}: ${issue.path.join(".")}: ${issue.message}.`, {
      details: { step: "plan", file: file.name, pointer: `/${issue.path.join("/")}` },
    });
  }
  if (result.data.schema_version !== undefined && result.data.schema_version !== 1) {
    throw new PlatformError(
      "MANIFEST_INVALID",
      `${file.name}: schema_version ${result.data.schema_version} is not known. Use 1.`,
      {
        details: {
          step: "plan",
          file: file.name,
          pointer: "/schema_version",
          code: "MANIFEST_SCHEMA_UNSUPPORTED",
        },
      },
    );
  }
  return result.data;
}

const Package = z.looseObject({
  scripts: z.record(z.string(), z.string()).catch({}).default({}),
  packageManager: z.string().optional().catch(undefined),
});

function parsePackage(json: string | undefined) {
  if (json === undefined) return null;
  try {
    return Package.parse(JSON.parse(json));
  } catch (cause) {
    throw new PlatformError("BUILD_FAILED", "package.json is not valid JSON. Correct it and publish again.", {
      details: { step: "plan", file: "package.json" },
      cause,
    });
  }
}

function installCommand(names: ReadonlySet<string>, hasPackage: boolean): string | null {
  if (!hasPackage)
    return names.has("requirements.txt")
      ? "python3 -m venv .venv && .venv/bin/pip install --no-cache-dir -r requirements.txt"
      : null;
  if (names.has("pnpm-lock.yaml")) return "npx --yes pnpm@10 install --frozen-lockfile";
  if (names.has("yarn.lock")) return "npx --yes yarn@1 install --frozen-lockfile";
  if (names.has("package-lock.json") || names.has("npm-shrinkwrap.json"))
    return "npm ci --no-audit --no-fund";
  return "npm install --no-audit --no-fund";
}

const firstText = (...values: (string | boolean | undefined | null)[]) =>
  values.find((value): value is string => typeof value === "string" && value !== "");

/** A start script is run directly, not through npm: one process less, and signals arrive. */
const directScript = (script: string) =>
  `PATH="$PWD/node_modules/.bin:$PATH"; export PATH; ${script.includes("&&") || script.includes(";") || script.includes("|") ? script : `exec ${script}`}`;

function kindOf(asked: string | undefined, start: string | undefined, because: string[]): Plan["kind"] {
  if (asked === "static") return "static";
  if (asked === "dynamic" || asked === "server") return "dynamic";
  because.push(start ? "kind dynamic: there is a start command" : "kind static: there is no start command");
  return start ? "dynamic" : "static";
}

/** Decides by what the caller said, then the manifest, then the files. Pure. */
export function planBuild(fields: PublishFields, files: AppFiles): Plan {
  const because: string[] = [];
  const manifest: Manifest = files.manifest ? parseManifest(files.manifest) : {};
  const pkg = parsePackage(files.packageJson);
  const scripts = pkg?.scripts ?? {};
  const asked = firstText(
    fields.kind === "auto" ? undefined : fields.kind,
    fields.deployment_type,
    fields.type,
    fields.mode,
  );
  const script = scripts["start"];
  const python =
    !pkg && files.names.has("main.py")
      ? "python3 main.py"
      : !pkg && files.names.has("app.py")
        ? "python3 app.py"
        : undefined;
  const scriptStart =
    script && !scripts["prestart"]
      ? directScript(script)
      : script
        ? "npm start"
        : files.names.has("server.js")
          ? "exec node server.js"
          : python;
  const start =
    firstText(
      fields.run_command,
      fields.start_command,
      manifest.start,
      manifest.start_command,
      manifest.run,
      manifest.run_command,
    ) ?? scriptStart;
  const kind = kindOf(asked, start, because);
  if (kind === "dynamic" && !start) {
    throw new PlatformError(
      "START_COMMAND_MISSING",
      "No start command is known. Send run_command, or add a start script to package.json, or start: to the app manifest.",
      {
        details: {
          step: "plan",
          looked_in: [
            "run_command",
            "miosa.app.yml",
            "package.json scripts.start",
            "server.js",
            "main.py",
            "app.py",
          ],
          patch: { file: "package.json", pointer: "/scripts/start", example: "node server.js" },
        },
        errors: { run_command: ["is missing"] },
      },
    );
  }
  const manifestInstall = manifest.install ?? manifest.install_command;
  const install =
    fields.install_command === false || manifestInstall === false
      ? null
      : (firstText(fields.install_command, manifestInstall) ?? installCommand(files.names, pkg !== null));
  const manifestBuild = manifest.build ?? manifest.build_command;
  const build =
    manifestBuild === false && !fields.build_command
      ? null
      : (firstText(fields.build_command, manifestBuild) ?? (scripts["build"] ? "npm run build" : null));
  const output = firstText(
    fields.output_path,
    fields.path,
    fields.source_snapshot_path,
    manifest.output,
    manifest.output_path,
  );
  const required = [
    ...(manifest.requirements?.config ?? []),
    ...(manifest.requirements?.secrets ?? []),
    ...(manifest.capabilities?.secrets ?? []).filter((one) => one.required !== false).map((one) => one.name),
  ];
  return {
    kind,
    root: "/workspace",
    install,
    build,
    outputs: output
      ? [output]
      : build
        ? ["dist", "build", "out", "public", "_site", ".output/public"]
        : [".", "dist", "build", "out", "public", "_site"],
    outputNamed: output !== undefined,
    start: kind === "dynamic" ? start! : null,
    port: kind === "dynamic" ? (fields.port ?? manifest.port ?? manifest.readiness?.port ?? 3000) : null,
    healthCheckPath:
      kind === "dynamic"
        ? (fields.health_check_path ??
          manifest.readiness?.path ??
          manifest.probe_path ??
          manifest.health_check_path ??
          "/")
        : null,
    requiredEnv: [...new Set(required)],
    because: [
      ...because,
      ...(files.manifest ? [`read ${files.manifest.name}`] : []),
      ...(pkg ? ["read package.json"] : []),
    ],
  };
}
