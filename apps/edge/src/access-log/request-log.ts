import type { RequestLogEntry } from "@platform/edge-api";
import { Outbox, type OutboxOptions } from "./outbox.ts";

/**
 * Requests served, for the control plane's log. It takes a thousand a second: the database behind it is for looking
 * one up, not for counting. The access log has every one.
 */
export class RequestLog extends Outbox<RequestLogEntry> {
  constructor(options: OutboxOptions) {
    super(options, {
      path: "/internal/edge/requests",
      what: "the request log",
      flushMs: 2_000,
      maxBatch: 1_000,
      maxKept: 20_000,
      maxTaken: 2_000,
    });
  }
}
