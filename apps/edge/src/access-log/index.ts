export { AccessFile } from "./access-file.ts";
export { Metrics, type Gauge } from "./metrics.ts";
export { MetricsServer } from "./metrics-server.ts";
export { RequestLog } from "./request-log.ts";
export { Outbox, type OutboxOptions } from "./outbox.ts";
