/** Upper bounds of the latency buckets, seconds. */
const BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30] as const;
/** Apps with series of their own; the least recently used one loses its own. */
const MAX_APPS = 5_000;

export interface Served {
  readonly tenantId: string | null;
  /** `deployment:ID`, `sandbox:ID`, or the kind of route. */
  readonly app: string;
  readonly status: number;
  readonly durationMs: number;
  readonly bytes: number;
}

interface Series {
  readonly tenantId: string;
  /** By the status' first digit. */
  readonly requests: number[];
  readonly buckets: number[];
  seconds: number;
  bytes: number;
}

/** A number that is read when somebody asks. */
export interface Gauge {
  readonly name: string;
  readonly help: string;
  read(): number;
}

/** Counters and latency histograms per app, of a size that does not grow with traffic. */
export class Metrics {
  readonly #apps = new Map<string, Series>();
  readonly #gauges: readonly Gauge[];
  #evicted = 0;

  constructor(gauges: readonly Gauge[] = []) {
    this.#gauges = gauges;
  }

  add({ tenantId, app, status, durationMs, bytes }: Served): void {
    let series = this.#apps.get(app);
    if (series) this.#apps.delete(app);
    else series = newSeries(tenantId ?? "");
    this.#apps.set(app, series);
    if (this.#apps.size > MAX_APPS) {
      this.#apps.delete(this.#apps.keys().next().value!);
      this.#evicted++;
    }
    const seconds = durationMs / 1000;
    series.requests[Math.min(5, Math.max(1, Math.floor(status / 100)))]!++;
    const bucket = BUCKETS.findIndex((bound) => seconds <= bound);
    series.buckets[bucket < 0 ? BUCKETS.length : bucket]!++;
    series.seconds += seconds;
    series.bytes += bytes;
  }

  /** In Prometheus' text format, version 0.0.4. */
  text(): string {
    const parts: string[] = [];
    const head = (name: string, type: string, help: string) =>
      parts.push(`# HELP ${name} ${help}\n# TYPE ${name} ${type}\n`);
    head("edge_requests_total", "counter", "Requests answered, by app and class of status.");
    for (const [app, series] of this.#apps)
      for (const [digit, count] of series.requests.entries())
        if (count > 0)
          parts.push(`edge_requests_total{${labels(app, series)},status="${digit}xx"} ${count}\n`);
    head("edge_response_bytes_total", "counter", "Bytes sent to clients, heads included.");
    for (const [app, series] of this.#apps)
      parts.push(`edge_response_bytes_total{${labels(app, series)}} ${series.bytes}\n`);
    head("edge_request_duration_seconds", "histogram", "Time from the request's head to the answer's end.");
    for (const [app, series] of this.#apps) parts.push(histogram(app, series));
    head("edge_evicted_apps_total", "counter", "Apps that lost their series to more recently used ones.");
    parts.push(`edge_evicted_apps_total ${this.#evicted}\n`);
    for (const { name, help, read } of this.#gauges) {
      head(name, "gauge", help);
      parts.push(`${name} ${read()}\n`);
    }
    return parts.join("");
  }
}

const newSeries = (tenantId: string): Series => ({
  tenantId,
  requests: [0, 0, 0, 0, 0, 0],
  buckets: new Array<number>(BUCKETS.length + 1).fill(0),
  seconds: 0,
  bytes: 0,
});

const escape = (text: string) => text.replace(/[\\"]/g, "\\$&").replaceAll("\n", "\\n");
const labels = (app: string, { tenantId }: Series) => `app="${escape(app)}",tenant="${escape(tenantId)}"`;

function histogram(app: string, series: Series): string {
  const name = "edge_request_duration_seconds";
  let text = "";
  let sum = 0;
  for (const [index, count] of series.buckets.entries()) {
    sum += count;
    text += `${name}_bucket{${labels(app, series)},le="${BUCKETS[index] ?? "+Inf"}"} ${sum}\n`;
  }
  return `${text}${name}_sum{${labels(app, series)}} ${series.seconds}\n${name}_count{${labels(app, series)}} ${sum}\n`;
}
