import { StringDecoder } from "node:string_decoder";
import { Code, ConnectError, type Client } from "@connectrpc/connect";
import { Signal, type Process } from "./gen/process/process_pb.js";

export interface ExecOptions {
  /** The box's workdir by default. */
  readonly cwd?: string;
  readonly env?: Record<string, string>;
  /** The whole process group is killed after this time, in milliseconds. No limit by default. */
  readonly timeoutMs?: number;
  /** Written to the command, which then sees its end. Without it the input is empty. */
  readonly stdin?: string | Uint8Array;
  /** Kept of each of both outputs, in bytes; only the listeners get the rest. 10 MiB by default. */
  readonly maxOutputBytes?: number;
  readonly onStdout?: (text: string) => void;
  readonly onStderr?: (text: string) => void;
  /** Aborting kills the process group and rejects. */
  readonly signal?: AbortSignal;
}

export interface ExecResult {
  readonly stdout: string;
  readonly stderr: string;
  /** -1 when a signal ended the command. */
  readonly exitCode: number;
  readonly timedOut: boolean;
  readonly durationMs: number;
  readonly stdoutTruncated: boolean;
  readonly stderrTruncated: boolean;
}

const DEFAULT_MAX_OUTPUT_BYTES = 10 * 1024 * 1024;
/** Well under the agent's message limit. */
const STDIN_CHUNK_BYTES = 256 * 1024;
/** Time that the agent gets to report the end of a killed command before the call itself is given up, in ms. */
const KILL_GRACE_MS = 10_000;

/** Decodes one output as it arrives: a character may span two chunks, bad bytes become U+FFFD. */
class Captured {
  readonly #kept = new StringDecoder("utf8");
  readonly #heard = new StringDecoder("utf8");
  readonly #listener: ((text: string) => void) | undefined;
  #room: number;
  #parts: string[] = [];
  truncated = false;

  constructor(maxBytes: number, listener?: (text: string) => void) {
    this.#room = maxBytes;
    this.#listener = listener;
  }

  add(bytes: Uint8Array): void {
    if (this.#listener) this.#tell(this.#heard.write(Buffer.from(bytes)));
    const kept = bytes.subarray(0, this.#room);
    this.#room -= kept.length;
    this.truncated ||= kept.length < bytes.length;
    if (kept.length > 0) this.#parts.push(this.#kept.write(Buffer.from(kept)));
  }

  end(): string {
    this.#tell(this.#heard.end());
    return this.#parts.join("") + this.#kept.end();
  }

  #tell(text: string): void {
    if (text !== "") this.#listener?.(text);
  }
}

/** Runs `/bin/sh -c command` to its end. @throws ConnectError when it cannot start or the agent is lost */
export async function exec(
  client: Client<typeof Process>,
  command: string,
  options: ExecOptions = {},
): Promise<ExecResult> {
  const startedAt = performance.now();
  const limit = options.maxOutputBytes ?? DEFAULT_MAX_OUTPUT_BYTES;
  const stdout = new Captured(limit, options.onStdout);
  const stderr = new Captured(limit, options.onStderr);
  let timedOut = false;
  let timer: NodeJS.Timeout | undefined;
  let exitCode = -1;
  let pid = 0;
  const kill = () => void killGroup(client, pid);
  try {
    const events = client.start(
      {
        process: { cmd: "/bin/sh", args: ["-c", command], envs: options.env ?? {}, cwd: options.cwd },
        stdin: options.stdin !== undefined,
      },
      {
        signal: options.signal,
        // The agent keeps this deadline as well, so that a command never outlives a caller that died.
        timeoutMs: options.timeoutMs === undefined ? undefined : options.timeoutMs + KILL_GRACE_MS,
      },
    );
    for await (const { event } of events) {
      const body = event?.event;
      if (body?.case === "start") {
        pid = body.value.pid;
        options.signal?.addEventListener("abort", kill, { once: true });
        if (options.timeoutMs !== undefined) {
          timer = setTimeout(() => {
            timedOut = true;
            kill();
          }, options.timeoutMs);
        }
        // Not awaited: a command may fill its output before it reads its input.
        if (options.stdin !== undefined) void feed(client, pid, options.stdin);
      } else if (body?.case === "data") {
        const { output } = body.value;
        if (output.case === "stdout") stdout.add(output.value);
        else if (output.case === "stderr") stderr.add(output.value);
      } else if (body?.case === "end") {
        exitCode = timedOut ? -1 : body.value.exitCode;
      }
    }
  } catch (error) {
    if (!(error instanceof ConnectError && error.code === Code.DeadlineExceeded)) throw error;
    timedOut = true;
  } finally {
    clearTimeout(timer);
    options.signal?.removeEventListener("abort", kill);
  }
  return {
    stdout: stdout.end(),
    stderr: stderr.end(),
    exitCode,
    timedOut,
    durationMs: performance.now() - startedAt,
    stdoutTruncated: stdout.truncated,
    stderrTruncated: stderr.truncated,
  };
}

async function killGroup(client: Client<typeof Process>, pid: number): Promise<void> {
  try {
    await client.sendSignal({
      process: { selector: { case: "pid", value: pid } },
      signal: Signal.SIGKILL,
    });
  } catch {
    // It ended by itself in the meantime, or the agent is lost, which the event stream reports.
  }
}

async function feed(client: Client<typeof Process>, pid: number, input: string | Uint8Array): Promise<void> {
  const bytes = typeof input === "string" ? Buffer.from(input) : input;
  const process = { selector: { case: "pid" as const, value: pid } };
  try {
    for (let at = 0; at < bytes.length; at += STDIN_CHUNK_BYTES) {
      const chunk = bytes.subarray(at, at + STDIN_CHUNK_BYTES);
      await client.sendInput({ process, input: { input: { case: "stdin", value: chunk } } });
    }
    await client.closeStdin({ process });
  } catch {
    // A command that does not read its input to the end is not a failure: its exit code tells.
  }
}
