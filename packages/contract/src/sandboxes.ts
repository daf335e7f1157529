import { z } from "zod";
import {
  EnvMap,
  External,
  Metadata,
  Name,
  NoBody,
  Placement,
  Port,
  SandboxSlug,
  Tags,
  queryInt,
  ListQuery,
} from "./fields.ts";
import { defineRoute } from "./route.ts";
import { sandboxSetupRoutes } from "./sandbox-setup.ts";

export const sandboxSizes = {
  xs: { vcpus: 1, memory_mb: 2048, disk_size_mb: 10_240 },
  small: { vcpus: 2, memory_mb: 4096, disk_size_mb: 10_240 },
  medium: { vcpus: 4, memory_mb: 8192, disk_size_mb: 20_480 },
  large: { vcpus: 8, memory_mb: 16_384, disk_size_mb: 40_960 },
  xl: { vcpus: 16, memory_mb: 32_768, disk_size_mb: 81_920 },
} as const;
export type SandboxSize = keyof typeof sandboxSizes;

export const ServiceInput = z.object({
  name: z.string().regex(/^[A-Za-z0-9_.-]{1,64}$/, "letters, digits, dot, underscore, hyphen; at most 64"),
  command: z.string().min(1).max(65_536),
  cwd: z.string().startsWith("/").max(4096).default("/workspace"),
  env: EnvMap.default({}),
  port: Port.optional().describe("Where it listens; then GET …/services/:name looks at its health"),
  health_path: z.string().startsWith("/").max(2048).optional(),
  sudo: z.boolean().optional(),
});

export const DatabaseChoice = z.union([
  z.boolean(),
  z.object({
    engine: z.string().optional(),
    engine_version: z.coerce.string().optional(),
    size: z.string().optional(),
    storage_mb: z.coerce.number().int().optional(),
    region: z.string().optional(),
    existing_database_id: z.string().optional(),
  }),
]);

export const CreateSandbox = z.object({
  template_id: z.string().max(200).default("miosa-sandbox"),
  size: z.enum(["xs", "small", "medium", "large", "xl"]).optional(),
  cpu_count: z.coerce.number().int().min(1).max(64).optional(),
  memory_mb: z.coerce.number().int().min(128).max(262_144).optional().describe("Memory limit, MiB"),
  disk_size_mb: z.coerce.number().int().min(64).max(1_048_576).optional(),
  disk_mb: z.coerce.number().int().min(64).max(1_048_576).optional(),
  name: Name.optional(),
  slug: SandboxSlug.optional(),
  tags: Tags.optional(),
  metadata: Metadata.default({}),
  persistent: z.boolean().default(true),
  timeout_sec: z.coerce
    .number()
    .int()
    .min(1)
    .max(30 * 86_400)
    .default(3600)
    .describe("Time to live, seconds"),
  idle_timeout_sec: z.coerce
    .number()
    .int()
    .min(0)
    .max(30 * 86_400)
    .default(0)
    .describe("0 = never"),
  always_on: z.boolean().default(false),
  env: EnvMap.default({}),
  services: z.array(ServiceInput).max(20).default([]),
  readiness_probe: z.object({ path: z.string().default("/"), port: Port }).optional(),
  database: DatabaseChoice.optional(),
  github_repo_url: z.string().optional(),
  github_branch: z.string().optional(),
  github_clone_path: z.string().optional(),
  source: z.string().optional(),
  revision: z.string().optional(),
  depth: z.coerce.number().int().optional(),
  snapshot_id: z.string().optional(),
  region: z.string().optional(),
  entrypoint: z.string().optional(),
  setup_file: z
    .string()
    .max(64 * 1024)
    .optional(),
  agents_md: z
    .boolean()
    .optional()
    .describe("false: no AGENTS.md in a new, empty workspace; standard is the tenant's policy, else true"),
  browser_console: z
    .boolean()
    .optional()
    .describe("false: pages of its previews are not listened to; standard is the tenant's policy, else true"),
  wait: z.union([z.boolean(), z.coerce.number()]).optional(),
  response_format: z.string().optional(),
  ...External.shape,
  ...Placement.shape,
});
export type CreateSandbox = z.output<typeof CreateSandbox>;

export const Sandbox = z.looseObject({
  id: z.uuid(),
  slug: z.string(),
  name: z.string().nullable(),
  state: z.enum(["provisioning", "running", "paused", "destroyed", "error"]),
  ready: z.boolean().describe("True only after a command ran and a file was written and read back in it"),
  template_id: z.string(),
  size: z.string(),
  cpu_count: z.int(),
  memory_mb: z.int(),
  disk_size_mb: z.int(),
  preview_url: z.string(),
  isolation: z.looseObject({ driver: z.string(), level: z.string(), kernel: z.string() }).nullable(),
  created_at: z.string(),
});

const tag = "Sandboxes";
const one = { tag, envelope: "top", response: Sandbox } as const;

export const sandboxRoutes = {
  create: defineRoute({
    id: "createSandbox",
    method: "POST",
    path: "/sandboxes",
    summary: "Create a sandbox",
    ...one,
    status: 201,
    scope: "sandboxes:create",
    body: CreateSandbox,
    query: z.object({ wait: z.string().optional() }),
    idempotent: true,
    problems: ["TEMPLATE_NOT_FOUND", "VALIDATION_FAILED", "SANDBOX_READY_TIMEOUT", "ISOLATION_UNAVAILABLE"],
  }),
  list: defineRoute({
    id: "listSandboxes",
    method: "GET",
    path: "/sandboxes",
    summary: "List sandboxes",
    tag,
    envelope: "list",
    scope: "sandboxes:read",
    query: z.looseObject({
      ...ListQuery.shape,
      page: queryInt(1, 100_000, 1),
      search: z.string().optional(),
      template_id: z.string().optional(),
      sort: z.string().optional(),
      include_errored: z.string().optional(),
      tags: z.string().optional(),
    }),
    response: z.object({ data: z.array(Sandbox), meta: z.looseObject({ page: z.int(), total: z.int() }) }),
  }),
  get: defineRoute({
    id: "getSandbox",
    method: "GET",
    path: "/sandboxes/:id",
    summary: "Get a sandbox",
    ...one,
    scope: "sandboxes:read",
  }),
  byName: defineRoute({
    id: "getSandboxByName",
    method: "GET",
    path: "/sandboxes/by-name/:name",
    summary: "Get a sandbox by its name",
    ...one,
    scope: "sandboxes:read",
  }),
  update: defineRoute({
    id: "updateSandbox",
    method: "PATCH",
    path: "/sandboxes/:id",
    summary: "Change a sandbox",
    ...one,
    scope: "sandboxes:write",
    body: z.object({
      name: Name.optional(),
      slug: SandboxSlug.optional(),
      tags: Tags.optional(),
      metadata: Metadata.optional(),
      always_on: z.boolean().optional(),
      timeout_sec: CreateSandbox.shape.timeout_sec.unwrap().optional(),
      idle_timeout_sec: CreateSandbox.shape.idle_timeout_sec.unwrap().optional(),
    }),
  }),
  updateTags: defineRoute({
    id: "replaceSandboxTags",
    method: "PATCH",
    path: "/sandboxes/:id/tags",
    summary: "Replace the tags",
    ...one,
    scope: "sandboxes:write",
    body: z.object({ tags: Tags }),
  }),
  remove: defineRoute({
    id: "deleteSandbox",
    method: "DELETE",
    path: "/sandboxes/:id",
    summary: "Destroy a sandbox",
    tag,
    envelope: "top",
    scope: "sandboxes:write",
  }),
  pause: defineRoute({
    id: "pauseSandbox",
    method: "POST",
    path: "/sandboxes/:id/pause",
    summary: "Pause; memory is kept",
    tag,
    envelope: "top",
    scope: "sandboxes:write",
    body: NoBody,
  }),
  resume: defineRoute({
    id: "resumeSandbox",
    method: "POST",
    path: "/sandboxes/:id/resume",
    summary: "Resume",
    ...one,
    scope: "sandboxes:write",
    body: NoBody,
  }),
  stop: defineRoute({
    id: "stopSandbox",
    method: "POST",
    path: "/sandboxes/:id/stop",
    summary: "Stop: pause if persistent, else destroy",
    tag,
    envelope: "top",
    scope: "sandboxes:write",
    body: NoBody,
  }),
  extend: defineRoute({
    id: "extendSandbox",
    method: "POST",
    path: "/sandboxes/:id/extend",
    summary: "Set the time to live, counted from now",
    ...one,
    scope: "sandboxes:write",
    body: z
      .object({
        timeout_sec: z.coerce
          .number()
          .int()
          .min(1)
          .max(30 * 86_400)
          .optional(),
      })
      .optional(),
  }),
  fork: defineRoute({
    id: "forkSandbox",
    method: "POST",
    path: "/sandboxes/:id/fork",
    summary: "Copy a sandbox or one of its snapshots, once or many times",
    tag,
    envelope: "top",
    response: z.union([
      Sandbox,
      z.object({ forked_from: z.uuid(), count: z.int(), forks: z.array(Sandbox) }),
    ]),
    status: 201,
    scope: "sandboxes:create",
    idempotent: true,
    body: z
      .object({
        snapshot_id: z.string().optional(),
        name: Name.optional(),
        timeout_sec: z.coerce.number().int().min(1).optional(),
        template_id: z.string().optional(),
        metadata: Metadata.optional(),
        external_user_id: z.string().optional(),
        database: z
          .enum(["share", "branch", "none"])
          .optional()
          .describe("Linked databases: the same ones (standard), a copy of each of its own, or none"),
        count: z.coerce
          .number()
          .int()
          .min(1)
          .max(100)
          .optional()
          .describe("So many copies of one moment; the answer is then {forked_from, count, forks}"),
        concurrency: z.coerce
          .number()
          .int()
          .min(1)
          .max(16)
          .optional()
          .describe("Started at once; standard 8"),
      })
      .optional(),
  }),
  recover: defineRoute({
    id: "recoverSandbox",
    method: "POST",
    path: "/sandboxes/:id/recover",
    summary: "A new sandbox from the disk of a failed one",
    ...one,
    status: 201,
    scope: "sandboxes:create",
    body: NoBody,
    idempotent: true,
    problems: ["CONFLICT"],
  }),
  readiness: defineRoute({
    id: "getReadiness",
    method: "GET",
    path: "/sandboxes/:id/readiness",
    summary: "The eight readiness components",
    tag,
    envelope: "top",
    scope: "sandboxes:read",
  }),
  readinessStream: defineRoute({
    id: "streamReadiness",
    method: "GET",
    path: "/sandboxes/:id/readiness/stream",
    summary: "Readiness as server-sent events; ends with ready or timeout",
    tag,
    envelope: "raw",
    scope: "sandboxes:read",
    stream: true,
  }),
  usage: defineRoute({
    id: "getSandboxUsage",
    method: "GET",
    path: "/sandboxes/:id/usage",
    summary: "Measured usage",
    tag,
    envelope: "data",
    scope: "sandboxes:read",
  }),
  metrics: defineRoute({
    id: "getSandboxMetrics",
    method: "GET",
    path: "/sandboxes/:id/metrics",
    summary: "Metrics",
    tag,
    envelope: "data",
    scope: "sandboxes:read",
    query: z.object({ window: z.string().default("1h") }),
  }),
  logs: defineRoute({
    id: "getSandboxLogs",
    method: "GET",
    path: "/sandboxes/:id/logs",
    summary: "Log lines of all services",
    tag,
    envelope: "top",
    scope: "sandboxes:read",
    query: z.object({ lines: queryInt(1, 5000, 100) }),
  }),
  logsStream: defineRoute({
    id: "streamSandboxLogs",
    method: "GET",
    path: "/sandboxes/:id/logs/stream",
    summary: "Follow the log",
    tag,
    envelope: "raw",
    scope: "sandboxes:read",
    stream: true,
    query: z.looseObject({}),
  }),
  events: defineRoute({
    id: "streamSandboxEvents",
    method: "GET",
    path: "/sandboxes/:id/events",
    summary: "Events as server-sent events",
    tag,
    envelope: "raw",
    scope: "sandboxes:read",
    stream: true,
    query: z.looseObject({}),
  }),
  ports: defineRoute({
    id: "listPorts",
    method: "GET",
    path: "/sandboxes/:id/ports",
    summary: "Listening ports",
    tag,
    envelope: "top",
    scope: "sandboxes:read",
  }),
  ...sandboxSetupRoutes,
} as const;
