import type { RequestLogEntry } from "@platform/edge-api";
import { Outbox, type OutboxOptions } from "./outbox.ts";

/** Requests served, for the control plane's log. */
export class RequestLog extends Outbox<RequestLogEntry> {
  constructor(options: OutboxOptions) {
    super(options, {
      path: "/internal/edge/requests",
      what: "the request log",
      flushMs: 2_000,
      maxBatch: 1_000,
      maxKept: 20_000,
    });
  }
}
