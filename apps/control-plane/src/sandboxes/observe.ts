import { sandboxRoutes as r } from "@platform/contract";
import type { LogLine } from "@platform/guest-protocol";
import { handler, openEventStream, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { hourly, noPrices } from "../prices.ts";
import { seriesOf, totalsOf } from "./series.ts";
import { liveSandbox } from "./access.ts";
import { ownSandbox, type SandboxRow } from "./store.ts";

const runSeconds = (row: SandboxRow) =>
  row.run_seconds + (row.running_since ? (Date.now() - row.running_since.getTime()) / 1000 : 0);

/** Usage, metrics and logs of one sandbox: the kernel's own figures; what is not measured is null. */
export function sandboxObserveHandlers(platform: Platform): Handler[] {
  const { pool } = platform;
  const { prices = noPrices } = platform.settings;
  const stats = async (row: SandboxRow) =>
    row.state === "running" || row.state === "paused"
      ? platform.host.stats(row.box_key).catch(() => null)
      : null;
  return [
    handler(r.usage, async ({ caller, params }) => {
      const row = await ownSandbox(pool, caller, params["id"]!);
      const totals = await totalsOf(platform, row.id);
      const now = totals.cpuMicros === null ? await stats(row) : null;
      const cpuMicros = totals.cpuMicros ?? now?.cpuMicros ?? null;
      const { sentBytes, receivedBytes } = totals;
      const seconds = runSeconds(row);
      return {
        sandbox_id: row.id,
        state: row.state,
        runtime_sec: Math.round(seconds),
        provisioned_vcpu_ms: Math.round(seconds * 1000 * row.cpu_count),
        provisioned_memory_mb_ms: Math.round(seconds * 1000 * row.memory_mb),
        creation_count: 1,
        active_cpu_ms: cpuMicros === null ? null : Math.round(cpuMicros / 1000),
        network_ingress_bytes: receivedBytes,
        network_egress_bytes: sentBytes,
        measurement_status: {
          active_cpu: cpuMicros === null ? "not_measured" : "measured",
          network: sentBytes === null ? "not_measured" : "measured",
          provisioned_resources: "measured",
        },
        estimated_cost_cents: Math.round((seconds / 3600) * hourly(prices, row)),
        billing_rate_cents_per_hour: Math.round(hourly(prices, row)),
        paused_rate_cents_per_hour: 0,
        timeout_sec: row.timeout_sec,
        timeout_remaining_ms: row.expires_at ? Math.max(0, row.expires_at.getTime() - Date.now()) : null,
      };
    }),
    handler(r.metrics, async ({ caller, params, query }) => {
      const row = await ownSandbox(pool, caller, params["id"]!);
      const series = await seriesOf(platform, row.id, query.window);
      const now = await stats(row);
      const memory = now?.memoryBytes == null ? null : Math.round(now.memoryBytes / 1024 / 1024);
      return {
        resource_type: "sandbox",
        sandbox_id: row.id,
        window: query.window,
        current: {
          state: row.state,
          ready: row.ready && row.state === "running",
          cpu_count: row.cpu_count,
          memory_mb: row.memory_mb,
          memory_used_mb: memory,
          memory_peak_mb: now?.memoryPeakBytes == null ? null : Math.round(now.memoryPeakBytes / 1024 / 1024),
          processes: now?.processes ?? null,
          oom_kills: now?.oomKills ?? null,
          cpu_used_ms: now?.cpuMicros == null ? null : Math.round(now.cpuMicros / 1000),
        },
        series,
      };
    }),
    handler(r.logs, async ({ caller, params, query }) => {
      const { guest } = await liveSandbox(platform, caller, params["id"]!);
      const all: LogLine[] = [];
      for (const service of await guest.services.list())
        all.push(...(await guest.services.logs(service.name, query.lines).catch(() => [])));
      const sorted = all.filter((line) => line.stream !== "agent").sort((a, b) => a.t.localeCompare(b.t));
      return { logs: sorted.slice(-query.lines).map(({ t, stream, line }) => ({ t, stream, line })) };
    }),
    handler(r.logsStream, async ({ caller, params, reply }) => {
      const { guest } = await liveSandbox(platform, caller, params["id"]!);
      const services = await guest.services.list();
      const stream = openEventStream(reply);
      const follow = async (name: string) => {
        for await (const event of guest.services.follow(name, 50, stream.signal)) {
          if (!("exit" in event) && event.stream !== "agent")
            stream.send("log_line", { line: event.line, stream: event.stream, ts: event.t, service: name });
        }
      };
      await Promise.allSettled(services.map((service) => follow(service.name)));
      stream.close();
    }),
  ];
}
