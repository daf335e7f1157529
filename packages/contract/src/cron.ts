import { z } from "zod";
import { EnvMap, External, ListQuery, Metadata, Name, NoBody, Placement } from "./fields.ts";
import { defineRoute } from "./route.ts";

const HttpCall = z.object({
  path: z
    .string()
    .regex(/^\/[\x21-\x7e]*$/, "must begin with / and hold no spaces")
    .max(2048)
    .describe("Path and query at the deployment's own host name"),
  method: z
    .string()
    .transform((text) => text.toUpperCase())
    .pipe(z.enum(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]))
    .default("POST"),
  headers: z.record(z.string().regex(/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/), z.string().max(4096)).optional(),
  body: z.string().max(65_536).optional(),
});

const fields = {
  name: Name,
  schedule: z
    .string()
    .trim()
    .min(1)
    .max(200)
    .describe(
      "Five fields (minute, hour, day, month, weekday), or @hourly, @daily, @weekly, @monthly, @yearly",
    ),
  command: z.string().min(1).max(16_384).optional().describe("Run by /bin/sh -c in /workspace"),
  http: HttpCall.optional().describe(
    "In place of a command: a request to the deployment; an answer below 400 is a success",
  ),
  env: EnvMap.optional(),
  timezone: z.string().min(1).max(64).optional().describe("IANA name; UTC by default"),
  overlap_policy: z
    .enum(["skip", "queue", "replace", "allow"])
    .optional()
    .describe(
      "While a run is on: skip records the occurrence as skipped (the default), queue runs it afterwards, replace ends the run first, allow runs both",
    ),
  missed_policy: z
    .enum(["skip", "once", "all"])
    .optional()
    .describe(
      "Occurrences while the platform was away: skip records them (the default), once runs the last, all runs the newest missed_limit",
    ),
  missed_limit: z.coerce.number().int().min(1).max(100).optional().describe("For all; 10 by default"),
  max_retries: z.coerce
    .number()
    .int()
    .min(0)
    .max(10)
    .optional()
    .describe("More tries after a failure; none by default"),
  retry_delay_sec: z.coerce
    .number()
    .int()
    .min(1)
    .max(3600)
    .optional()
    .describe("Seconds before the first of them, doubled each time; 30 by default"),
  timeout_sec: z.coerce.number().int().min(1).max(86_400).optional().describe("Seconds; one hour by default"),
};

export const CreateCronJob = z
  .object({
    ...fields,
    computer_id: z.string().optional().describe("A sandbox or a deployment"),
    sandbox_id: z.string().optional(),
    deployment_id: z.string().optional(),
    metadata: Metadata.default({}),
  })
  .extend(External.shape)
  .extend(Placement.shape);

export const ChangeCronJob = z.object(fields).partial();

export const CronJob = z.looseObject({
  id: z.string(),
  tenant_id: z.string(),
  name: z.string(),
  schedule: z.string(),
  timezone: z.string(),
  command: z.string(),
  state: z.enum(["active", "paused"]),
  status: z.enum(["active", "paused"]),
  paused: z.boolean(),
  last_run_at: z.string().nullable(),
  next_run_at: z.string().nullable(),
});

export const CronExecution = z.looseObject({
  id: z.string(),
  cron_job_id: z.string(),
  state: z.enum(["pending", "running", "succeeded", "failed", "skipped"]),
  status: z.string(),
  reason: z
    .string()
    .nullable()
    .describe(
      "exit_code, http_status, timeout, oom, signal, lost, replaced, target_gone, not_serving, unreachable; missed or overlap",
    ),
  started_at: z.string().nullable(),
  finished_at: z.string().nullable(),
  duration_ms: z.int().nullable(),
  attempt: z.int().optional().describe("From 1"),
  release_id: z.string().nullable().optional().describe("The release that was live when it ran"),
  exit_code: z.int().nullable(),
  output: z.string().nullable().describe("The last 64 KiB of both outputs as they came"),
  error: z.string().nullable(),
});

const tag = "Cron jobs";
const read = { tag, envelope: "data", scope: "cron_jobs:read" } as const;
const write = { tag, envelope: "data", scope: "cron_jobs:write" } as const;
const base = "/cron-jobs/:id";
export const cronRoutes = {
  list: defineRoute({
    id: "listCronJobs",
    method: "GET",
    path: "/cron-jobs",
    summary: "List cron jobs",
    tag,
    envelope: "list",
    scope: "cron_jobs:read",
    query: ListQuery.extend({
      computer_id: z.string().optional(),
      sandbox_id: z.string().optional(),
      deployment_id: z.string().optional(),
      status: z.string().optional(),
    }),
  }),
  create: defineRoute({
    id: "createCronJob",
    method: "POST",
    path: "/cron-jobs",
    summary: "Create a cron job",
    ...write,
    status: 201,
    body: CreateCronJob,
    response: CronJob,
    idempotent: true,
  }),
  get: defineRoute({
    id: "getCronJob",
    method: "GET",
    path: base,
    summary: "A cron job",
    ...read,
    response: CronJob,
  }),
  change: defineRoute({
    id: "changeCronJob",
    method: "PATCH",
    path: base,
    summary: "Change a cron job",
    ...write,
    body: ChangeCronJob,
    response: CronJob,
  }),
  remove: defineRoute({
    id: "deleteCronJob",
    method: "DELETE",
    path: base,
    summary: "Delete a cron job with its executions; a running one is ended",
    ...write,
  }),
  pause: defineRoute({
    id: "pauseCronJob",
    method: "POST",
    path: `${base}/pause`,
    summary: "No more runs until it is resumed",
    ...write,
    body: NoBody,
    response: CronJob,
  }),
  resume: defineRoute({
    id: "resumeCronJob",
    method: "POST",
    path: `${base}/resume`,
    summary: "Run again from the next occurrence on",
    ...write,
    body: NoBody,
    response: CronJob,
  }),
  runNow: defineRoute({
    id: "runCronJobNow",
    method: "POST",
    path: `${base}/run-now`,
    summary: "Start a run now; poll the execution until it ends",
    ...write,
    body: NoBody,
    response: CronExecution,
    idempotent: true,
  }),
  executions: defineRoute({
    id: "listCronExecutions",
    method: "GET",
    path: `${base}/executions`,
    summary: "Executions, newest first",
    tag,
    envelope: "list",
    scope: "cron_jobs:read",
    query: ListQuery,
  }),
  execution: defineRoute({
    id: "getCronExecution",
    method: "GET",
    path: `${base}/executions/:eid`,
    summary: "An execution",
    ...read,
    response: CronExecution,
  }),
} as const;
