import { Code, ConnectError, type HandlerContext, type ServiceImpl } from "@connectrpc/connect";
import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  type ProcessEventSchema,
  Signal,
  type Process,
  type ProcessConfig,
  type ProcessInput,
  type ProcessSelector,
  type StreamInputRequest,
} from "@platform/guest-protocol";
import { PUBLIC_DOOR } from "../access.ts";
import type { Environment } from "../environment.ts";
import { resolvePath } from "../files/paths.ts";
import { EventQueue, type QueuedEvent } from "./event-queue.ts";
import type { Program } from "./program.ts";
import { signalGroup } from "./signals.ts";
import { CannotStart, startProgram, type Command } from "./spawn.ts";
import { NoTerminals, startOnTerminal } from "./terminal.ts";

/** Silence after which a stream carries a sign of life, in seconds, unless the client asks for another. */
const DEFAULT_KEEPALIVE_SECONDS = 90;

type EventInit = MessageInitShape<typeof ProcessEventSchema>;

interface Entry {
  readonly program: Program;
  readonly config: ProcessConfig;
  readonly tag: string | undefined;
  readonly hasTerminal: boolean;
}

/** envd's process service. A program outlives the stream that started it; `connect` re-attaches. */
export function createProcessService(environment: Environment): ServiceImpl<typeof Process> {
  const entries = new Map<number, Entry>();

  const find = (selector: ProcessSelector | undefined): Entry => {
    const wanted = selector?.selector;
    const found =
      wanted?.case === "pid"
        ? entries.get(wanted.value)
        : [...entries.values()].find((entry) => wanted?.case === "tag" && entry.tag === wanted.value);
    if (found) return found;
    const name = wanted?.case ? `${wanted.case} ${wanted.value}` : "no pid and no tag";
    throw new ConnectError(`process with ${name} not found`, Code.NotFound);
  };

  return {
    list: () => ({
      processes: [...entries.values()].map(({ program, config, tag }) => ({ pid: program.pid, config, tag })),
    }),
    async *start(request, context) {
      if (!request.process) throw new ConnectError("process is required", Code.InvalidArgument);
      const hasTerminal = request.pty !== undefined;
      // Clients of envd expect to start in their home folder.
      const folder = context.requestHeader.has(PUBLIC_DOOR) ? environment.home : environment.workdir;
      const command = toCommand(environment, request.process, hasTerminal, request.stdin ?? true, folder);
      const size = { cols: request.pty?.size?.cols || 80, rows: request.pty?.size?.rows || 24 };
      const program = await startOrRefuse(command, hasTerminal ? size : null);
      entries.set(program.pid, { program, config: request.process, tag: request.tag, hasTerminal });
      void program.ended.then(() => entries.delete(program.pid));
      killAtDeadline(program, context.timeoutMs());
      yield* events(program, context);
    },
    async *connect(request, context) {
      yield* events(find(request.process).program, context);
    },
    update(request) {
      const { program } = find(request.process);
      const size = request.pty?.size;
      if (!size) return {};
      if (!program.resize) throw new ConnectError("tty not assigned to process", Code.FailedPrecondition);
      if (!size.cols || !size.rows) throw new ConnectError("size has to be positive", Code.InvalidArgument);
      program.resize(size.cols, size.rows);
      return {};
    },
    async sendInput(request) {
      await write(find(request.process), request.input);
      return {};
    },
    async streamInput(requests) {
      await writeAll(requests, find);
      return {};
    },
    sendSignal(request) {
      const { program } = find(request.process);
      if (request.signal !== Signal.SIGTERM && request.signal !== Signal.SIGKILL) {
        throw new ConnectError("signal has to be SIGTERM or SIGKILL", Code.InvalidArgument);
      }
      signalGroup(program.pid, request.signal === Signal.SIGKILL ? "SIGKILL" : "SIGTERM");
      return {};
    },
    closeStdin(request) {
      const { program, hasTerminal } = find(request.process);
      if (hasTerminal) {
        throw new ConnectError("a terminal has no end of input: send Ctrl+D", Code.FailedPrecondition);
      }
      program.input?.close();
      return {};
    },
  };
}

function toCommand(
  environment: Environment,
  config: ProcessConfig,
  hasTerminal: boolean,
  stdin: boolean,
  folder: string,
): Command {
  const terminal: Record<string, string> = hasTerminal ? { TERM: "xterm-256color" } : {};
  return {
    cmd: config.cmd,
    args: config.args,
    cwd: resolvePath(config.cwd ?? "", environment.home, folder),
    env: environment.for({ ...terminal, ...config.envs }),
    stdin,
  };
}

async function startOrRefuse(
  command: Command,
  size: { cols: number; rows: number } | null,
): Promise<Program> {
  try {
    return size ? await startOnTerminal(command, size) : await startProgram(command);
  } catch (error) {
    if (error instanceof CannotStart) throw new ConnectError(error.message, Code.InvalidArgument);
    if (error instanceof NoTerminals) throw new ConnectError(error.message, Code.FailedPrecondition);
    throw error;
  }
}

/** As in envd, the deadline of the call that started a program is that of the program. */
function killAtDeadline(program: Program, timeoutMs: number | undefined): void {
  if (timeoutMs === undefined) return;
  const timer = setTimeout(() => signalGroup(program.pid, "SIGKILL"), Math.max(0, timeoutMs));
  void program.ended.then(() => clearTimeout(timer));
}

/** Both streams of a program carry the same events. */
async function* events(program: Program, context: HandlerContext): AsyncGenerator<{ event: EventInit }> {
  const queue = new EventQueue(program, context.signal);
  yield { event: { event: { case: "start", value: { pid: program.pid } } } };
  const seconds = Number(context.requestHeader.get("keepalive-ping-interval")) || DEFAULT_KEEPALIVE_SECONDS;
  for await (const event of queue.events(Math.min(seconds, 86_400) * 1000)) {
    yield { event: toMessage(event) };
  }
}

function toMessage(event: QueuedEvent): EventInit {
  switch (event.type) {
    case "idle":
      return { event: { case: "keepalive", value: {} } };
    case "output": {
      const output = { case: event.name, value: event.data };
      return { event: { case: "data", value: { output } } };
    }
    case "end": {
      const { exitCode, exited, status, error } = event.end;
      return { event: { case: "end", value: { exitCode, exited, status, error } } };
    }
  }
}

async function write(entry: Entry, input: ProcessInput | undefined): Promise<void> {
  const data = input?.input;
  if (data?.case === undefined) throw new ConnectError("input is required", Code.InvalidArgument);
  if (entry.hasTerminal !== (data.case === "pty")) {
    const reason = entry.hasTerminal
      ? "tty assigned to process: input goes to pty, not stdin"
      : "tty not assigned to process";
    throw new ConnectError(reason, Code.FailedPrecondition);
  }
  if (!entry.program.input) throw new ConnectError("stdin not enabled or closed", Code.FailedPrecondition);
  try {
    await entry.program.input.write(data.value);
  } catch (cause) {
    throw new ConnectError("the process no longer reads its input", Code.FailedPrecondition, {}, [], cause);
  }
}

async function writeAll(
  requests: AsyncIterable<StreamInputRequest>,
  find: (selector: ProcessSelector | undefined) => Entry,
): Promise<void> {
  let entry: Entry | null = null;
  for await (const { event } of requests) {
    if (event.case === "start") entry = find(event.value.process);
    if (event.case !== "data") continue;
    if (!entry) throw new ConnectError("the first message has to be a start", Code.InvalidArgument);
    await write(entry, event.value.input);
  }
}
