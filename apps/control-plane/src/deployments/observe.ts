import { deploymentRoutes as r } from "@platform/contract";
import { query } from "@platform/postgres";
import { handler, openEventStream, type Call, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { noPrices, perSecond } from "../prices.ts";
import { loadBuild } from "../releases/index.ts";
import { followLogs, searchLogs } from "./logs.ts";
import { recentRequests, requestById, trafficOf } from "./requests.ts";
import { deploymentSeries } from "./sampler.ts";
import { instancesOf, ownDeployment, type DeploymentRow, type InstanceRow } from "./store.ts";

/** Lines of the app's log about one request, at most. */
const requestLines = 1_000;

/** The instance that gets the traffic now. */
export async function servingInstance(platform: Platform, row: DeploymentRow): Promise<InstanceRow | null> {
  const rows = (await instancesOf(platform.pool, row.id)).filter(
    (one) => one.release_id === row.active_release_id && one.retire_at === null,
  );
  return rows.at(-1) ?? null;
}

/** Of all its instances, ever. */
async function runtimeOf(platform: Platform, id: string) {
  const [row] = await query<{ seconds: number | null; cents: number | null }>(
    platform.pool,
    `select sum(lasted)::float8 as seconds, sum(lasted * ${perSecond(platform.settings.prices ?? noPrices)})::float8 as cents
     from (select metered.*, extract(epoch from coalesce(ended_at, now()) - started_at) as lasted
       from metered where resource_type = 'deployment' and resource_id = $1) runs`,
    [id],
  );
  return { runtime_sec: Math.round(row?.seconds ?? 0), cost_cents: Math.round(row?.cents ?? 0) };
}

export function deploymentObserveHandlers(platform: Platform): Handler[] {
  const { pool } = platform;
  const own = (call: Call) => ownDeployment(pool, call.caller, call.params["id"]!);
  return [
    handler(r.logs, async (call) => {
      const row = await own(call as Call);
      if (!String(call.request.headers.accept ?? "").includes("text/event-stream")) {
        const log = await searchLogs(platform, row, call.query);
        return call.reply
          .header("content-type", "application/json")
          .send(JSON.stringify({ data: { lines: log.map((line) => line.line), logs: log } }));
      }
      const stream = openEventStream(call.reply);
      await followLogs(
        platform,
        row,
        call.query,
        ({ t, ...line }) => stream.send("log_line", { ...line, ts: t }),
        stream.signal,
      );
      stream.close();
      return undefined;
    }),
    handler(r.instanceLogs, async (call) => {
      const row = await own(call as Call);
      const log = await searchLogs(platform, row, {
        lines: call.query.lines,
        instance_id: call.params["iid"]!,
      });
      return {
        logs: log.map((line) => line.line),
        runtime_instance_id: call.params["iid"],
        deployment_id: row.id,
        log_path: null,
      };
    }),
    handler(r.requestLogs, async (call) => {
      const row = await own(call as Call);
      return { logs: await recentRequests(pool, row.id, call.query.limit) };
    }),
    handler(r.requestLog, async (call) => {
      const row = await own(call as Call);
      const id = call.params["rid"]!;
      const request = await requestById(pool, row.id, id);
      return { request, logs: await searchLogs(platform, row, { q: id, lines: requestLines }) };
    }),
    handler(r.metrics, async (call) => {
      const row = await own(call as Call);
      const all = await instancesOf(pool, row.id);
      const instance = await servingInstance(platform, row);
      const count = (state: string) => all.filter((one) => one.state === state).length;
      const traffic = await trafficOf(pool, row.id, call.query.window);
      return {
        resource_type: "deployment",
        deployment_id: row.id,
        window: call.query.window,
        current: {
          state: row.state,
          runtime_instances: {
            total: all.length,
            active: all.filter((one) => one.retire_at === null).length,
            healthy: count("healthy"),
            unhealthy: count("unhealthy"),
            error: count("error"),
            restarts: all.reduce((sum, one) => sum + one.restarts, 0),
          },
          usage: await runtimeOf(platform, row.id),
          cpu_limit_millicores: 4000,
          memory_limit_mb: Math.round(platform.settings.instanceMemoryBytes / 1024 / 1024),
          last_health_check_at: instance?.last_health_check_at?.toISOString() ?? null,
          last_heartbeat_at: instance?.last_health_check_at?.toISOString() ?? null,
          requests: traffic.requests,
        },
        series: { ...(await deploymentSeries(platform, row.id, call.query.window)), ...traffic.series },
      };
    }),
    handler(r.buildLogs, async (call) => {
      const row = await own(call as Call);
      await streamBuildLog(platform, call as Call, row.id, call.params["bid"]!);
    }),
  ];
}

async function streamBuildLog(
  platform: Platform,
  call: Call,
  deploymentId: string,
  buildId: string,
): Promise<void> {
  const stream = openEventStream(call.reply);
  let after = 0;
  let step = "";
  for (;;) {
    const heard = platform.signals.next(`build-log:${buildId}`, 1_000, stream.signal);
    const build = await loadBuild(platform.pool, buildId).catch(() => null);
    if (!build || build.deployment_id !== deploymentId) {
      stream.send("error", { error: { code: "NOT_FOUND", message: "There is no such build." } });
      stream.send("done", { result: { state: "failed" } });
      break;
    }
    if (build.step !== step) {
      step = build.step;
      stream.send("build_event", { stream: "system", line: step, step, ts: new Date().toISOString() });
    }
    const rows = await query<{ seq: string; stream: string; line: string; at: Date }>(
      platform.pool,
      "select * from build_logs where build_id = $1 and seq > $2 order by seq limit 1000",
      [buildId, after],
    );
    for (const line of rows) {
      after = Number(line.seq);
      stream.send("log_line", {
        stream: line.stream === "stderr" ? "stderr" : "stdout",
        line: line.line,
        ts: line.at.toISOString(),
      });
    }
    if (rows.length === 0 && build.state !== "queued" && build.state !== "building") {
      stream.send("done", {
        result: { state: build.state, ...(build.failure ? { error: build.failure } : {}) },
      });
      break;
    }
    if (stream.signal.aborted) break;
    if (rows.length === 0) await heard;
  }
  stream.close();
}
