import { cronRoutes as r, notFound, PlatformError, type CreateCronJob } from "@platform/contract";
import type { z } from "zod";
import { ownDeployment } from "../deployments/index.ts";
import { handler, type Call, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { ownSandbox } from "../sandboxes/index.ts";
import { Conditions, ownedBy, page, resolvePlacement } from "../tenants/index.ts";
import { nextRun } from "./schedule.ts";
import {
  executionView,
  jobView,
  loadExecution,
  loadJob,
  ownJob,
  type CronJobRow,
  type ExecutionRow,
} from "./store.ts";

const standardTimeoutSec = 3600;

type Input = z.output<typeof CreateCronJob>;
type Target = { readonly type: "sandbox" | "deployment"; readonly id: string };

/** The published clients name only `computer_id`: it may be either. */
async function targetOf(platform: Platform, call: Call, input: Input): Promise<Target> {
  const { computer_id, sandbox_id, deployment_id } = input;
  const given = [computer_id, sandbox_id, deployment_id].filter((id) => id !== undefined);
  if (given.length === 0 || (sandbox_id && deployment_id)) {
    const message = "name one target: sandbox_id, deployment_id or computer_id";
    throw new PlatformError("VALIDATION_FAILED", `A cron job runs somewhere: ${message}.`, {
      errors: { computer_id: [message] },
    });
  }
  const sandbox = async (id: string): Promise<Target> => ({
    type: "sandbox",
    id: (await ownSandbox(platform.pool, call.caller, id)).id,
  });
  const deployment = async (id: string): Promise<Target> => ({
    type: "deployment",
    id: (await ownDeployment(platform.pool, call.caller, id)).id,
  });
  if (sandbox_id) return sandbox(sandbox_id);
  if (deployment_id) return deployment(deployment_id);
  const isAbsent = (error: unknown) =>
    error instanceof PlatformError && (error.code === "NOT_FOUND" || error.code === "INVALID_ID");
  for (const find of [sandbox, deployment]) {
    try {
      return await find(computer_id!);
    } catch (error) {
      if (!isAbsent(error)) throw error;
    }
  }
  throw notFound(`Sandbox or deployment ${computer_id}`);
}

/** A job does one thing: a command anywhere, or a request to a deployment. */
function checkWork(input: Pick<Input, "command" | "http">, target: Target["type"]): void {
  const refuse = (field: "command" | "http", message: string) =>
    new PlatformError("VALIDATION_FAILED", `${field}: ${message}.`, { errors: { [field]: [message] } });
  if (input.command === undefined && input.http === undefined)
    throw refuse("command", "is missing. Send a command, or http with a path");
  if (input.command !== undefined && input.http !== undefined)
    throw refuse("http", "cannot stand beside a command. Send one of them");
  if (input.http !== undefined && target === "sandbox")
    throw refuse("http", "reaches deployments only. For a sandbox use a command such as curl");
}

/** What is shown as the command of a job that has none. */
const shownCommand = (input: Pick<Input, "command" | "http">): string =>
  input.command ?? `${input.http!.method} ${input.http!.path.split("?")[0]}`;

async function createJob(platform: Platform, call: Call, input: Input): Promise<CronJobRow> {
  const id = call.idFor("cron-job");
  const found = await loadJob(platform.pool, id);
  if (found) return found;
  const timezone = input.timezone ?? "UTC";
  const next = nextRun(input.schedule, timezone, new Date());
  const target = await targetOf(platform, call, input);
  checkWork(input, target.type);
  const owner = await resolvePlacement(platform.pool, call.caller, input);
  await platform.pool.query(
    `insert into cron_jobs (id, tenant_id, workspace_id, project_id, external_workspace_id, external_user_id, external_project_id, metadata,
       name, schedule, timezone, command, env_sealed, target_type, target_id, overlap_policy, timeout_sec, next_run_at,
       http_sealed, missed_policy, missed_limit, max_retries, retry_delay_sec)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23) on conflict (id) do nothing`,
    [
      id,
      call.caller.tenantId,
      owner.workspaceId,
      owner.projectId,
      input.external_workspace_id ?? null,
      input.external_user_id ?? call.caller.externalUserId,
      input.external_project_id ?? null,
      input.metadata,
      input.name,
      input.schedule,
      timezone,
      shownCommand(input),
      platform.seal.close(JSON.stringify(input.env ?? {})),
      target.type,
      target.id,
      input.overlap_policy ?? "skip",
      input.timeout_sec ?? standardTimeoutSec,
      next,
      input.http ? platform.seal.close(JSON.stringify(input.http)) : null,
      input.missed_policy ?? "skip",
      input.missed_limit ?? 10,
      input.max_retries ?? 0,
      input.retry_delay_sec ?? 30,
    ],
  );
  return (await loadJob(platform.pool, id))!;
}

async function changeJob(platform: Platform, id: string, set: Record<string, unknown>): Promise<CronJobRow> {
  const names = Object.keys(set);
  await platform.pool.query(
    `update cron_jobs set generation = generation + 1, updated_at = now()${names.map((name, index) => `, ${name} = $${index + 2}`).join("")} where id = $1`,
    [id, ...Object.values(set)],
  );
  platform.signals.announce("work:cron");
  return (await loadJob(platform.pool, id))!;
}

export function cronHandlers(platform: Platform): Handler[] {
  const { pool } = platform;
  const own = (call: Call) => ownJob(pool, call.caller, call.params["id"]!);
  return [
    handler(r.list, async ({ caller, query }) => {
      const conditions = ownedBy(caller, query);
      const state = query.state ?? query.status;
      if (state) conditions.add("state = $?", state);
      for (const target of [query.computer_id, query.sandbox_id, query.deployment_id])
        if (target) conditions.add("target_id::text = $?", target);
      const { rows, next_cursor } = await page<CronJobRow>(pool, "cron_jobs", conditions, query);
      return { data: rows.map(jobView), ...(next_cursor ? { next_cursor } : {}) };
    }),
    handler(r.create, async (call) => jobView(await createJob(platform, call as unknown as Call, call.body))),
    handler(r.get, async (call) => jobView(await own(call as Call))),
    handler(r.change, async (call) => {
      const row = await own(call as Call);
      const { env, http, ...plain } = call.body;
      if (http !== undefined || plain.command !== undefined) checkWork(call.body, row.target_type);
      const set: Record<string, unknown> = Object.fromEntries(
        Object.entries(plain).filter(([, value]) => value !== undefined),
      );
      if (http) {
        set["http_sealed"] = platform.seal.close(JSON.stringify(http));
        set["command"] = shownCommand({ http });
      } else if (plain.command !== undefined) set["http_sealed"] = null;
      if (env) set["env_sealed"] = platform.seal.close(JSON.stringify(env));
      if (plain.schedule !== undefined || plain.timezone !== undefined) {
        const next = nextRun(plain.schedule ?? row.schedule, plain.timezone ?? row.timezone, new Date());
        set["next_run_at"] = row.state === "active" ? next : null;
      }
      return jobView(await changeJob(platform, row.id, set));
    }),
    handler(r.remove, async (call) => {
      const row = await own(call as Call);
      await pool.query("delete from cron_jobs where id = $1", [row.id]);
      return { id: row.id, deleted: true };
    }),
    handler(r.pause, async (call) => {
      const row = await own(call as Call);
      return jobView(await changeJob(platform, row.id, { state: "paused", next_run_at: null }));
    }),
    handler(r.resume, async (call) => {
      const row = await own(call as Call);
      if (row.state === "active") return jobView(row);
      const next_run_at = nextRun(row.schedule, row.timezone, new Date());
      return jobView(await changeJob(platform, row.id, { state: "active", next_run_at }));
    }),
    handler(r.runNow, async (call) => {
      const row = await own(call as Call);
      const id = (call as Call).idFor("execution");
      await pool.query(
        `insert into cron_executions (id, tenant_id, cron_job_id, trigger) values ($1, $2, $3, 'manual') on conflict (id) do nothing`,
        [id, row.tenant_id, row.id],
      );
      platform.signals.announce("work:cron");
      return executionView((await loadExecution(pool, id))!);
    }),
    handler(r.executions, async (call) => {
      const row = await own(call as Call);
      const conditions = new Conditions().add("cron_job_id = $?", row.id);
      if (call.query.state) conditions.add("state = $?", call.query.state);
      const { rows, next_cursor } = await page<ExecutionRow>(pool, "cron_executions", conditions, call.query);
      return { data: rows.map(executionView), ...(next_cursor ? { next_cursor } : {}) };
    }),
    handler(r.execution, async (call) => {
      const row = await own(call as Call);
      const found = await pool.query<ExecutionRow>(
        "select * from cron_executions where cron_job_id = $1 and id::text = $2",
        [row.id, call.params["eid"]],
      );
      if (!found.rows[0]) throw notFound(`Execution ${call.params["eid"]}`);
      return executionView(found.rows[0]);
    }),
  ];
}
