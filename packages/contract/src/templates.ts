import { z } from "zod";
import { EnvName, NoBody } from "./fields.ts";
import { PlatformError } from "./problems.ts";
import { defineRoute } from "./route.ts";

const tag = "Templates";
const base = "/sandbox-templates";

/** What a template of a tenant's own is made of. */
export const TemplateBuildSpec = z.strictObject({
  from: z.string().min(1).max(200).default("miosa-sandbox").describe("Template to start from"),
  image: z
    .string()
    .min(1)
    .max(500)
    .optional()
    .describe("In place of `from`: an OCI image, by its reference (node:22-slim) or as upload:<id>"),
  size: z.enum(["xs", "small", "medium", "large", "xl"]).optional(),
  vcpu: z.int().min(1).max(32).optional(),
  memoryMib: z.int().min(128).max(65_536).optional().describe("Memory of the build, MiB"),
  diskMib: z.int().min(64).max(102_400).optional().describe("Most that the build may add, MiB"),
  steps: z
    .array(
      z.strictObject({
        run: z.string().min(1).max(65_536).describe("Shell command, run as root"),
        files: z.uuid().optional().describe("Uploaded tar whose files the command finds in $FILES"),
      }),
    )
    .max(200)
    .default([]),
  env: z.record(EnvName, z.string().max(32_768)).default({}).describe("For the steps and for every sandbox"),
  workdir: z.string().startsWith("/").max(1024).default("/workspace"),
  user: z.literal("user").default("user").describe("Sandboxes run as `user`; steps run as root"),
  startCmd: z.string().min(1).max(65_536).optional().describe("Service that every sandbox starts with"),
  readyCmd: z.string().min(1).max(65_536).optional().describe("Ends with 0 once the start command serves"),
  previewPort: z.int().min(1).max(65_535).optional(),
  artifactPaths: z.array(z.string().max(1024)).max(100).default([]),
});
export type TemplateBuildSpec = z.output<typeof TemplateBuildSpec>;

export interface SpecProblem {
  /** JSON pointer into the spec (RFC 6901); empty for the spec itself. */
  readonly pointer: string;
  readonly message: string;
}

const escape = (part: PropertyKey) => String(part).replaceAll("~", "~0").replaceAll("/", "~1");

/** Every problem of a build spec, each with the place that it is about. */
export function checkBuildSpec(input: unknown): { spec: TemplateBuildSpec | null; problems: SpecProblem[] } {
  const parsed = TemplateBuildSpec.safeParse(input);
  if (parsed.success) {
    const { readyCmd, startCmd, steps, from, image } = parsed.data;
    const problems: SpecProblem[] = [];
    if (image !== undefined && (input as { from?: unknown }).from !== undefined && from !== "miosa-sandbox")
      problems.push({ pointer: "/image", message: "takes the place of from; give one of the two" });
    if (readyCmd && !startCmd && image === undefined)
      problems.push({ pointer: "/readyCmd", message: "needs a startCmd whose readiness it tells" });
    if (from === "host" && steps.length > 0)
      problems.push({
        pointer: "/from",
        message: "the machine's own system cannot be changed; use a template",
      });
    return { spec: problems.length === 0 ? parsed.data : null, problems };
  }
  const problems = parsed.error.issues.flatMap((issue): SpecProblem[] => {
    const at = issue.path.map((part) => `/${escape(part)}`).join("");
    if (issue.code !== "unrecognized_keys") return [{ pointer: at, message: issue.message }];
    return issue.keys.map((key) => ({
      pointer: `${at}/${escape(key)}`,
      message: "is not a field of a build spec",
    }));
  });
  return { spec: null, problems };
}

/** @throws PlatformError INVALID_BUILDSPEC */
export function parseBuildSpec(input: unknown): TemplateBuildSpec {
  const { spec, problems } = checkBuildSpec(input);
  if (spec) return spec;
  const errors: Record<string, string[]> = {};
  for (const { pointer, message } of problems) (errors[`build_spec${pointer}`] ??= []).push(message);
  const first = problems[0];
  throw new PlatformError(
    "INVALID_BUILDSPEC",
    `The build spec is not valid: ${first?.pointer || "/"} ${first?.message}. Correct it and try again.`,
    { errors, details: { errors: problems } },
  );
}

export const CreateTemplate = z.object({
  name: z.string().min(1).max(200),
  slug: z
    .string()
    .regex(/^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/, "lower-case letters, digits and hyphens")
    .optional(),
  description: z.string().max(2000).optional(),
  build_spec: z.unknown().optional(),
  metadata: z.record(z.string(), z.unknown()).default({}),
});

export const ImageUploadId = /^upload:([0-9a-f-]{36})$/;

const read = { tag, scope: "sandboxes:read", method: "GET" } as const;
const write = { tag, scope: "sandboxes:write", method: "POST" } as const;

export const templateRoutes = {
  create: defineRoute({
    ...{ id: "createSandboxTemplate", path: base, summary: "Create a template", envelope: "data" },
    ...{ ...write, status: 201, body: CreateTemplate, idempotent: true },
    problems: ["INVALID_BUILDSPEC", "NAME_TAKEN"],
  }),
  delete: defineRoute({
    ...{ id: "deleteSandboxTemplate", path: `${base}/:id`, summary: "Delete a template", envelope: "data" },
    ...{ ...write, method: "DELETE", status: 204, problems: ["TEMPLATE_IN_USE"] },
  }),
  buildSpec: defineRoute({
    ...{ id: "getTemplateBuildSpec", path: `${base}/:id/build-spec`, summary: "What it is built of" },
    ...{ ...read, envelope: "data" },
  }),
  validate: defineRoute({
    ...{ id: "validateBuildSpec", path: `${base}/validate`, summary: "Check a build spec", envelope: "data" },
    ...write,
    body: z.object({ build_spec: z.unknown() }),
  }),
  builds: defineRoute({
    ...{ id: "listTemplateBuilds", path: `${base}/:id/builds`, summary: "Builds of a template" },
    ...{ ...read, envelope: "data" },
  }),
  build: defineRoute({
    ...{
      id: "createTemplateBuild",
      path: `${base}/:id/builds`,
      summary: "Build a template",
      envelope: "data",
    },
    ...{ ...write, status: 201, idempotent: true, problems: ["INVALID_BUILDSPEC"] },
    body: z.object({ build_spec: z.unknown().optional() }).optional(),
  }),
  getBuild: defineRoute({
    ...{ id: "getTemplateBuild", path: "/sandbox-template-builds/:bid", summary: "A build of a template" },
    ...{ ...read, envelope: "data" },
  }),
  cancelBuild: defineRoute({
    ...{ id: "cancelTemplateBuild", path: "/sandbox-template-builds/:bid/cancel", summary: "Cancel a build" },
    ...{ ...write, envelope: "data", body: NoBody },
  }),
  buildLogs: defineRoute({
    ...{ id: "getTemplateBuildLogs", path: "/sandbox-template-builds/:bid/logs", summary: "Log of a build" },
    ...{ ...read, envelope: "top" },
    query: z.looseObject({
      after: z.coerce.number().int().min(0).default(0),
      limit: z.coerce.number().int().min(1).max(10_000).default(1000),
    }),
  }),
  buildLogStream: defineRoute({
    ...{ id: "streamTemplateBuildLogs", path: "/sandbox-template-builds/:bid/logs/stream" },
    ...{ ...read, summary: "Log of a build as it is written", envelope: "raw", stream: true },
  }),
  uploadImage: defineRoute({
    ...{ id: "uploadTemplateImage", path: "/sandbox-template-images", envelope: "data", bytes: true },
    summary: "Upload a tar of an OCI image layout for a build spec's image; kept for a day",
    ...{ ...write, status: 201, problems: ["DISK_FULL", "PAYLOAD_TOO_LARGE"] },
  }),
  promote: defineRoute({
    ...{ id: "promoteTemplateBuild", path: `${base}/:id/promote`, summary: "Use a build for new sandboxes" },
    ...{ ...write, envelope: "data", body: z.object({ build_id: z.uuid().optional() }).optional() },
  }),
  rollback: defineRoute({
    ...{ id: "rollbackTemplate", path: `${base}/:id/rollback`, summary: "Return to the build used before" },
    ...{ ...write, envelope: "data", body: NoBody },
  }),
  warmPool: defineRoute({
    ...{ id: "getTemplateWarmPool", path: `${base}/:id/warm-pool`, summary: "Sandboxes kept ready" },
    ...{ ...read, envelope: "data" },
  }),
} as const;
