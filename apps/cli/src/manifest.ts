import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";
import { z } from "zod";
import { manifestNames } from "./brand.ts";
import { CliError } from "./failure.ts";

const Command = z.string().min(1);
const Source = z.looseObject({
  schema_version: z.coerce.number().default(1),
  name: z.string().min(1).optional(),
  template: z.string().optional(),
  template_id: z.string().optional(),
  workdir: z.string().startsWith("/").default("/workspace"),
  install: z.union([Command, z.literal(false)]).optional(),
  install_command: Command.optional(),
  dev: Command.optional(),
  build: Command.optional(),
  build_command: Command.optional(),
  start: Command.optional(),
  start_command: Command.optional(),
  run: Command.optional(),
  run_command: Command.optional(),
  port: z.coerce.number().int().min(1).max(65_535).optional(),
  output: z.string().optional(),
  output_path: z.string().optional(),
  readiness: z
    .object({ path: z.string().startsWith("/").optional(), port: z.number().optional() })
    .optional(),
  health_check_path: z.string().startsWith("/").optional(),
  resources: z.looseObject({ database: z.unknown().optional() }).default({}),
  sync: z.object({ exclude: z.array(z.string()).default([]) }).default({ exclude: [] }),
});

/** An app's own description, with the synonyms resolved. */
export interface Manifest {
  readonly name: string | null;
  readonly template: string | null;
  readonly workdir: string;
  /** `false`: nothing to install. `null`: not said. */
  readonly install: string | false | null;
  readonly dev: string | null;
  readonly build: string | null;
  readonly start: string | null;
  readonly port: number | null;
  readonly output: string | null;
  readonly healthPath: string | null;
  readonly wantsDatabase: boolean;
  readonly excluded: readonly string[];
}

/**
 * @returns the manifest in `folder`, or one with nothing set when there is none
 * @throws CliError MANIFEST_INVALID, MANIFEST_SCHEMA_UNSUPPORTED or MANIFEST_NAME_REQUIRED
 */
export function readManifest(folder: string): Manifest {
  const name = manifestNames.find((candidate) => existsSync(join(folder, candidate)));
  if (!name) return toManifest(Source.parse({}));
  const path = join(folder, name);
  let value: unknown;
  try {
    value = parse(readFileSync(path, "utf8"));
  } catch (cause) {
    throw new CliError("MANIFEST_INVALID", `${path} is not YAML.`, "Correct the line named above.", 1, {
      cause,
    });
  }
  const result = Source.safeParse(value);
  if (!result.success) {
    const problems = result.error.issues
      .map((issue) => `${issue.path.join(".")}: ${issue.message}`)
      .join("; ");
    throw new CliError("MANIFEST_INVALID", `${path}: ${problems}.`, "Correct these fields.");
  }
  if (result.data.schema_version !== 1) {
    throw new CliError(
      "MANIFEST_SCHEMA_UNSUPPORTED",
      `${path} has schema_version ${result.data.schema_version}.`,
      "Use 1.",
    );
  }
  if (!result.data.name) {
    throw new CliError("MANIFEST_NAME_REQUIRED", `${path} has no name.`, "Add a line `name: my-app`.");
  }
  return toManifest(result.data);
}

function toManifest(source: z.output<typeof Source>): Manifest {
  const database = source.resources.database;
  return {
    name: source.name ?? null,
    template: source.template ?? source.template_id ?? null,
    workdir: source.workdir,
    install: source.install ?? source.install_command ?? null,
    dev: source.dev ?? null,
    build: source.build ?? source.build_command ?? null,
    start: source.start ?? source.start_command ?? source.run ?? source.run_command ?? null,
    port: source.port ?? null,
    output: source.output ?? source.output_path ?? null,
    healthPath: source.readiness?.path ?? source.health_check_path ?? null,
    wantsDatabase: database !== undefined && database !== null && database !== false,
    excluded: source.sync.exclude,
  };
}
