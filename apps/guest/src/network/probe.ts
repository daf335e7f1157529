import { request } from "node:http";
import { setTimeout as delay } from "node:timers/promises";
import type { ProbeResult } from "@platform/guest-protocol";
import type { Supervisor } from "../services/supervisor.ts";
import { AgentError } from "../http.ts";
import { listensOn } from "./ports.ts";
import { REACHABLE_ADDRESS } from "./tunnel.ts";

/** Between two looks at the kernel's table of sockets, in ms. */
const POLL_MS = 20;
/** A server that is found at the end of the wait gets this long for its answer, in ms. */
const MIN_ANSWER_MS = 2_000;
const EVIDENCE_LINES = 20;
const MAX_TIMEOUT_MS = 600_000;

interface Probe {
  readonly port: number;
  readonly path: string;
  readonly timeoutMs: number;
  readonly service: string | null;
}

type Answer =
  | { readonly type: "answered"; readonly status: number; readonly latencyMs: number }
  | { readonly type: "silent"; readonly error: string }
  | { readonly type: "broken"; readonly error: string };

/** The server went away; anything else that is not an answer means that it does not speak HTTP in time. */
const brokenCodes = new Set(["ECONNREFUSED", "ECONNRESET", "EPIPE"]);

/** @throws AgentError 400 */
export function parseProbe(body: Record<string, unknown>): Probe {
  const { port, path = "/", timeoutMs = 30_000, service = null } = body;
  const fail = (message: string) => new AgentError("INVALID", 400, message);
  if (typeof port !== "number" || !Number.isInteger(port) || port < 1 || port > 65_535) {
    throw fail(`"port" is a number from 1 to 65535.`);
  }
  if (typeof path !== "string" || !/^\/[\x21-\x7e]*$/.test(path)) throw fail(`"path" starts with a slash.`);
  if (typeof timeoutMs !== "number" || !(timeoutMs >= 0 && timeoutMs <= MAX_TIMEOUT_MS)) {
    throw fail(`"timeoutMs" is a number from 0 to ${MAX_TIMEOUT_MS}.`);
  }
  if (service !== null && typeof service !== "string") throw fail(`"service" is a service's name.`);
  return { port, path, timeoutMs, service };
}

/** Waits until `port` listens, asks it once, and says what it saw. */
export async function probe(
  wanted: Probe,
  supervisor: Supervisor,
  signal: AbortSignal,
): Promise<ProbeResult> {
  const startedAt = performance.now();
  const elapsed = () => Math.round(performance.now() - startedAt);
  let lastError: string | null = null;
  const result = (part: Partial<ProbeResult>): ProbeResult => ({
    ok: false,
    reason: null,
    httpStatus: null,
    latencyMs: null,
    waitedMs: elapsed(),
    ...part,
    evidence: { port: wanted.port, ...(lastError === null ? {} : { lastError }), ...part.evidence },
  });
  for (;;) {
    // The port first: a service that ended says nothing about a port that somebody else serves.
    const state = await listensOn(wanted.port);
    const exited = state === "no" ? exitOf(wanted.service, supervisor) : null;
    if (exited) return result({ reason: "process_exited", evidence: exited });
    if (state === "loopback")
      return result({ reason: "bound_to_loopback", evidence: lookOf(wanted, supervisor) });
    const waitedMs = elapsed();
    if (state === "everywhere") {
      const answer = await ask(wanted, Math.max(MIN_ANSWER_MS, wanted.timeoutMs - waitedMs), signal);
      if (answer.type === "answered") return { ...result(judge(answer)), waitedMs };
      lastError = answer.error;
      if (answer.type === "silent") {
        return { ...result({ reason: "no_http_answer", evidence: lookOf(wanted, supervisor) }), waitedMs };
      }
      // It broke off or listens no more: back to waiting, which also sees whether its service ended.
    }
    if (elapsed() >= wanted.timeoutMs || signal.aborted) {
      // It may have ended over this very question.
      const isThere = state === "everywhere" && (await listensOn(wanted.port)) !== "no";
      const reason = isThere ? "no_http_answer" : "not_listening";
      return result({ reason, evidence: lookOf(wanted, supervisor) });
    }
    await delay(POLL_MS);
  }
}

/** 403 is what development servers say to a host name that they do not know: not an app's answer. */
function judge(answer: { status: number; latencyMs: number }): Partial<ProbeResult> {
  const ok = answer.status < 500 && answer.status !== 403;
  return {
    ok,
    reason: ok ? null : "http_error",
    httpStatus: answer.status,
    latencyMs: answer.latencyMs,
  };
}

function ask(wanted: Probe, timeoutMs: number, signal: AbortSignal): Promise<Answer> {
  const startedAt = performance.now();
  return new Promise((resolve) => {
    const sent = request({
      host: REACHABLE_ADDRESS,
      port: wanted.port,
      path: wanted.path,
      headers: { host: "localhost", accept: "*/*" },
      agent: false,
      signal,
    });
    const timer = setTimeout(() => sent.destroy(new Error("no answer in time")), timeoutMs);
    sent.once("response", (response) => {
      clearTimeout(timer);
      const latencyMs = Math.round(performance.now() - startedAt);
      resolve({ type: "answered", status: response.statusCode ?? 0, latencyMs });
      response.destroy();
    });
    sent.on("error", (error: NodeJS.ErrnoException) => {
      clearTimeout(timer);
      const type = brokenCodes.has(error.code ?? "") ? "broken" : "silent";
      resolve({ type, error: error.code ?? error.message });
    });
    sent.end();
  });
}

function exitOf(name: string | null, supervisor: Supervisor): Record<string, unknown> | null {
  const service = name === null ? null : supervisor.find(name);
  if (!service || service.record.status === "running") return null;
  // A service that is kept alive counts as exited from its first failure on: it listens no more.
  const { exitCode, signal } = service.record;
  if (exitCode === null && signal === null) return null;
  return { service: name, exitCode, signal, logs: service.log.tail(EVIDENCE_LINES) };
}

function lookOf(wanted: Probe, supervisor: Supervisor): Record<string, unknown> {
  const service = wanted.service === null ? null : supervisor.find(wanted.service);
  if (!service) return {};
  return { service: wanted.service, status: service.record.status, logs: service.log.tail(EVIDENCE_LINES) };
}
