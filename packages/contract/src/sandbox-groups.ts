import { z } from "zod";
import { EnvMap, NoBody, queryInt } from "./fields.ts";
import { defineRoute } from "./route.ts";
import { CreateSandbox, Sandbox } from "./sandboxes.ts";
import { ExecResult } from "./exec-files.ts";

const tag = "Sandboxes";

export const RunOnce = z.object({
  command: z
    .string()
    .min(1)
    .max(1024 * 1024)
    .describe("Shell command"),
  template_id: CreateSandbox.shape.template_id,
  image: z.string().max(512).optional().describe("Another word for template_id"),
  size: CreateSandbox.shape.size,
  env: EnvMap.default({}),
  timeout: z.coerce.number().positive().max(3600).default(30).describe("Of the command, seconds"),
  timeout_sec: CreateSandbox.shape.timeout_sec,
  name: CreateSandbox.shape.name,
});

export const Batch = z.object({
  id: z.uuid(),
  status: z.enum(["running", "completed", "partial", "failed", "cancelling", "cancelled"]),
  requested_count: z.int(),
  concurrency_limit: z.int(),
  starting_count: z.int(),
  ready_count: z.int(),
  failed_count: z.int(),
  destroyed_count: z.int(),
  created_at: z.string(),
});

const bulkActions = ["pause", "resume", "stop", "extend", "delete", "destroy"] as const;
export type BulkAction = (typeof bulkActions)[number];

export const BulkJob = z.object({
  job_id: z.uuid(),
  action: z.enum(bulkActions),
  state: z.enum(["running", "completed"]),
  total: z.int(),
  completed: z.int(),
  failed: z.int(),
  failures: z.array(z.object({ id: z.string(), code: z.string(), message: z.string() })),
});

export const sandboxGroupRoutes = {
  run: defineRoute({
    id: "runInSandbox",
    method: "POST",
    path: "/sandboxes/run",
    summary: "Create a sandbox and run one command in it; the sandbox stays until its time is over",
    tag,
    envelope: "top",
    scope: "sandboxes:create",
    body: RunOnce,
    response: z.object({
      data: Sandbox,
      exec: ExecResult,
      timings: z.object({ ready_ms: z.number(), exec_ms: z.number(), total_ms: z.number() }),
    }),
    idempotent: true,
    problems: ["TEMPLATE_NOT_FOUND", "SANDBOX_READY_TIMEOUT", "ISOLATION_UNAVAILABLE"],
  }),
  batch: defineRoute({
    id: "createSandboxBatch",
    method: "POST",
    path: "/sandboxes/batch",
    summary: "Create many sandboxes, at most so many starting at once",
    tag,
    envelope: "data",
    status: 202,
    scope: "sandboxes:create",
    idempotent: true,
    body: z.object({
      count: z.coerce.number().int().min(1).max(100),
      concurrency: z.coerce.number().int().min(1).max(16).default(8),
      template_id: CreateSandbox.shape.template_id,
      size: CreateSandbox.shape.size,
      name_prefix: z.string().trim().min(1).max(100).optional(),
      setup_file: CreateSandbox.shape.setup_file,
      environment: EnvMap.default({}),
      timeout_sec: CreateSandbox.shape.timeout_sec,
      metadata: CreateSandbox.shape.metadata,
    }),
    response: Batch,
    problems: ["TEMPLATE_NOT_FOUND", "NAME_TAKEN"],
  }),
  batchGet: defineRoute({
    id: "getSandboxBatch",
    method: "GET",
    path: "/sandboxes/batches/:bid",
    summary: "How far a batch is",
    tag,
    envelope: "data",
    scope: "sandboxes:read",
    response: Batch,
  }),
  batchItems: defineRoute({
    id: "listSandboxBatchItems",
    method: "GET",
    path: "/sandboxes/batches/:bid/items",
    summary: "The sandboxes of a batch",
    tag,
    envelope: "data",
    scope: "sandboxes:read",
    query: z.object({ limit: queryInt(1, 100, 100) }),
  }),
  batchCancel: defineRoute({
    id: "cancelSandboxBatch",
    method: "POST",
    path: "/sandboxes/batches/:bid/cancel",
    summary: "Destroy those that are not ready yet",
    tag,
    envelope: "data",
    scope: "sandboxes:write",
    body: NoBody,
    response: Batch,
    problems: ["BATCH_ALREADY_TERMINAL"],
  }),
  bulk: defineRoute({
    id: "bulkSandboxes",
    method: "POST",
    path: "/bulk/sandboxes/:action",
    summary: `One action on many sandboxes: ${bulkActions.join(", ")}`,
    tag,
    envelope: "top",
    status: 202,
    scope: "sandboxes:write",
    idempotent: true,
    body: z
      .object({
        ids: z.array(z.string().max(200)).min(1).max(1000).optional(),
        filter: z
          .object({
            state: z.enum(["provisioning", "running", "paused", "error"]).optional(),
            template_id: z.string().optional(),
            search: z.string().optional(),
            workspace_id: z.string().optional(),
            project_id: z.string().optional(),
            external_workspace_id: z.string().optional(),
            external_user_id: z.string().optional(),
            external_project_id: z.string().optional(),
            tags: z.union([z.string(), z.array(z.string())]).optional(),
          })
          .optional(),
        timeout_sec: z.coerce
          .number()
          .int()
          .min(1)
          .max(30 * 86_400)
          .optional()
          .describe("For extend"),
      })
      .refine((body) => (body.ids === undefined) !== (body.filter === undefined), {
        path: ["ids"],
        message: "send either ids or filter",
      }),
    response: z.object({ job_id: z.uuid(), queued: z.int() }),
    problems: ["NOT_FOUND"],
  }),
  bulkGet: defineRoute({
    id: "getBulkJob",
    method: "GET",
    path: "/bulk/jobs/:jid",
    summary: "How far a bulk action is",
    tag,
    envelope: "top",
    scope: "sandboxes:read",
    response: BulkJob,
  }),
} as const;
