/** A program inside the box that the agent keeps; the same shape as a host's BoxService. */
export interface GuestService {
  readonly name: string;
  /** Shell command, run by `/bin/sh -c`. */
  readonly command: string;
  readonly cwd: string;
  readonly env: Record<string, string>;
  /** `always` restarts with backoff 0.2 s doubling to 30 s; `never` leaves it exited. */
  readonly restart: "always" | "never";
}

/** Somewhere outside that programs in the box reach on 127.0.0.1:`port`. */
export interface GuestLink {
  /** Address or name that the host's proxy is asked for, with `port`. */
  readonly host: string;
  readonly port: number;
}

/** Content of /run/agent/config.json. Absent members take the default named here. */
/** What the box may use; a kernel that it shares with the machine shows the machine's figures instead. */
export interface GuestLimits {
  readonly memoryBytes: number;
  /** Thousandths of a core. */
  readonly cpuMillis: number;
}

export interface GuestConfig {
  /** /run/agent/guest.sock */
  readonly socketPath: string;
  /** Unix socket of the host's HTTP CONNECT proxy: /run/agent/outbound.sock */
  readonly outboundPath: string;
  /** Where commands start when they name no folder: /workspace */
  readonly workdir: string;
  /** Home folder, to which relative paths refer: /home/user */
  readonly home: string;
  /** For every process started later. */
  readonly env: Record<string, string>;
  /** Port on 127.0.0.1 that leads to the outbound proxy; `null` opens none. */
  readonly proxyPort: number | null;
  readonly links: readonly GuestLink[];
  /** Started once the agent listens. */
  readonly services: readonly GuestService[];
  /** `null`: not known. */
  readonly limits: GuestLimits | null;
  /** /var/log/services */
  readonly logDir: string;
}

/** What PUT /config may change while the agent runs. Members left out stay. */
export type GuestConfigPatch = Partial<Pick<GuestConfig, "env" | "links" | "proxyPort" | "limits">> & {
  /** The box waited for its user: files get the time of now. */
  readonly isFirstUse?: boolean;
};

/** What is in force after PUT /config; `error` says why a port could not be opened. */
export interface AppliedConfig {
  readonly listeners: readonly { readonly port: number; readonly error: string | null }[];
}

export interface Readiness {
  readonly ok: true;
  readonly pid: number;
  readonly uptimeMs: number;
  /** Clock of the box, ISO 8601. */
  readonly time: string;
}

/** What a box was seen to be able to do, in answer to POST /self-test. */
export interface SelfTest {
  /** Of a shell command run as the box's programs are; `null` when a signal ended it or none started. */
  readonly exitCode: number | null;
  /** User id and home of that command. */
  readonly uid: number | null;
  readonly home: string | null;
  /** Clock of the box, milliseconds since the epoch. */
  readonly clockMs: number;
  /** A file in the working folder was written, synced and read back by that command. */
  readonly durable: boolean;
  /** The working folder was listed. */
  readonly listed: boolean;
  /** Services that the agent keeps. */
  readonly services: number;
  /** What failed, in words; empty when nothing did. */
  readonly detail: string;
}

export interface ServiceRecord {
  readonly name: string;
  /** `backoff` waits for its next start; `stopped` was told to stop. */
  readonly status: "running" | "exited" | "backoff" | "stopped";
  readonly pid: number | null;
  /** Of the last run that ended; `null` when a signal ended it. */
  readonly exitCode: number | null;
  readonly signal: string | null;
  /** Starts after the first one. */
  readonly restarts: number;
  readonly startedAt: string | null;
  readonly stoppedAt: string | null;
  readonly command: string;
  readonly cwd: string;
  readonly restart: GuestService["restart"];
  /** The last runs that ended, oldest first; absent from agents of older boxes. */
  readonly exits?: readonly ServiceExit[];
}

/** How one run of a service ended. */
export interface ServiceExit {
  /** ISO 8601 */
  readonly at: string;
  /** `null` when a signal ended it. */
  readonly exitCode: number | null;
  readonly signal: string | null;
  readonly ranMs: number;
}

export interface LogLine {
  /** ISO 8601 */
  readonly t: string;
  readonly stream: "stdout" | "stderr" | "agent";
  readonly line: string;
}

/** One line of a followed log: output, or the end of a service that is not started again. */
export type LogEvent =
  LogLine | { readonly exit: { readonly code: number | null; readonly signal: string | null } };

export interface ListeningPort {
  readonly port: number;
  readonly address: string;
  readonly family: "ipv4" | "ipv6";
  /** No socket of this port accepts from beyond the loopback addresses. */
  readonly loopbackOnly: boolean;
  /** `null` when the owner could not be looked up. */
  readonly pid: number | null;
  readonly process: string | null;
}

export interface ProbeOptions {
  /** Path of the request, `/` by default. */
  readonly path?: string;
  /** Most time for listening and answering together, in milliseconds; 30 000 by default. */
  readonly timeoutMs?: number;
  /** Service that should listen there: its exit ends the wait. */
  readonly service?: string;
}

/** A cell of code and where it runs; what one cell defines, the next ones of its context know. */
export interface CodeCell {
  readonly code: string;
  /** `python`, `javascript`, `typescript` or `bash`. */
  readonly language: string;
  /** Name of a context, made on first use. */
  readonly context: string;
  readonly env_vars?: Record<string, string>;
}

/** What a cell says while it runs. A result has the formats that its value offers, by name. */
export type CodeEvent =
  | { readonly type: "stdout" | "stderr"; readonly text: string }
  | { readonly type: "result"; readonly is_main_result: boolean; readonly [format: string]: unknown }
  | { readonly type: "error"; readonly name: string; readonly value: string; readonly traceback: string }
  | { readonly type: "number_of_executions"; readonly execution_count: number };

export interface CodeContext {
  /** `LANGUAGE:NAME` of those made by name. */
  readonly id: string;
  readonly language: string;
  readonly cwd: string;
}

export interface ProbeResult {
  readonly ok: boolean;
  readonly reason:
    null | "not_listening" | "bound_to_loopback" | "no_http_answer" | "process_exited" | "http_error";
  readonly httpStatus: number | null;
  /** Time of the one request that was answered, in milliseconds. */
  readonly latencyMs: number | null;
  /** Time from the call until the port listened, in milliseconds. */
  readonly waitedMs: number;
  readonly evidence: Record<string, unknown>;
}
