import { once } from "node:events";
import type { WebSocket } from "ws";
import { Signal, type GuestClient } from "@platform/guest-protocol";
import { closeSocket } from "../http/index.ts";
import type { Platform } from "../platform.ts";

/** Fixed by the published clients. */
export const execProtocol = "miosa-exec-v1";

const frame = {
  stdin: 0x00,
  stdout: 0x01,
  stderr: 0x02,
  exit: 0x03,
  endOfStdin: 0x04,
  resize: 0x05,
} as const;
const mostWaitingBytes = 1024 * 1024;

export type Wanted =
  | {
      readonly type: "start";
      readonly process: { cmd: string; args: string[]; cwd: string; envs: Record<string, string> };
      /** null: pipes, with standard error apart. */
      readonly size: { cols: number; rows: number } | null;
    }
  /** A program that outlives this connection. */
  | { readonly type: "connect"; readonly pid: number };

/** Unsigned, big-endian; a program that a signal ended, or that was lost, is 255. */
function exitFrame(exitCode: number): Buffer {
  const bytes = Buffer.alloc(5);
  bytes[0] = frame.exit;
  bytes.writeUInt32BE(exitCode < 0 ? 255 : exitCode, 1);
  return bytes;
}

/**
 * Speaks the binary frames of the interactive exec: one byte of type, then the payload. A command that was
 * started here ends with its connection; a terminal goes on.
 */
export async function serveProcess(
  platform: Platform,
  socket: WebSocket,
  guest: GuestClient,
  wanted: Wanted,
): Promise<void> {
  const gone = new AbortController();
  const hasTerminal = wanted.type === "connect" || wanted.size !== null;
  let pid = wanted.type === "connect" ? wanted.pid : 0;
  let ended = false;
  const started = Promise.withResolvers<void>();
  started.promise.catch(() => undefined); // Input waits for it; the stream below tells what happened.
  // One after the other, as they were sent.
  let input: Promise<unknown> = started.promise;
  let waiting = 0;
  socket.on("message", (data: Buffer, isBinary) => {
    if (!isBinary || data.length === 0) return;
    waiting += data.length;
    if (waiting > mostWaitingBytes) socket.pause();
    input = input
      .then(() => take(guest, pid, hasTerminal, data))
      .catch((error: unknown) => platform.log.debug({ err: error }, "input of a command was not taken"))
      .finally(() => {
        waiting -= data.length;
        if (waiting <= mostWaitingBytes) socket.resume();
      });
  });
  socket.on("close", () => {
    gone.abort();
    if (wanted.type === "start" && pid > 0 && !ended) void kill(guest, pid);
  });
  try {
    const process = { selector: { case: "pid" as const, value: pid } };
    const events =
      wanted.type === "connect"
        ? guest.process.connect({ process }, { signal: gone.signal })
        : guest.process.start(
            {
              process: wanted.process,
              stdin: true,
              ...(wanted.size ? { pty: { size: wanted.size } } : {}),
            },
            { signal: gone.signal },
          );
    for await (const { event } of events) {
      const body = event?.event;
      if (body?.case === "start") {
        pid = body.value.pid;
        started.resolve();
        if (gone.signal.aborted && wanted.type === "start") void kill(guest, pid);
      } else if (body?.case === "data") {
        const { output } = body.value;
        if (output.case === undefined) continue;
        const type = output.case === "stderr" ? frame.stderr : frame.stdout;
        await send(socket, Buffer.concat([Buffer.from([type]), output.value]));
      } else if (body?.case === "end") {
        ended = true;
        await send(socket, exitFrame(body.value.exitCode));
        closeSocket(socket, 1000);
      }
    }
    // Without an exit frame the client reads -1: its end was not seen.
    closeSocket(socket, 1011, "the end of the command was not seen");
  } catch (error) {
    started.reject(error);
    if (gone.signal.aborted) return;
    const { code, rawMessage } = error as { code?: unknown; rawMessage?: string };
    if (wanted.type === "start" && pid === 0 && (code === 3 || code === 5)) {
      // It cannot start: said as a shell says it.
      await send(socket, Buffer.concat([Buffer.from([frame.stderr]), Buffer.from(`${rawMessage ?? ""}\n`)]));
      await send(socket, exitFrame(127));
      closeSocket(socket, 1000);
      return;
    }
    platform.log.warn({ err: error }, "an interactive command was lost");
    closeSocket(socket, 1011, "the sandbox stopped answering");
  }
}

async function take(guest: GuestClient, pid: number, hasTerminal: boolean, data: Buffer): Promise<void> {
  const process = { selector: { case: "pid" as const, value: pid } };
  const payload = data.subarray(1);
  const [type] = data;
  if (type === frame.stdin && payload.length > 0) {
    const input = { case: hasTerminal ? ("pty" as const) : ("stdin" as const), value: payload };
    await guest.process.sendInput({ process, input: { input } });
  } else if (type === frame.endOfStdin && hasTerminal) {
    // A terminal has no end of input but the key that says so.
    const input = { case: "pty" as const, value: Buffer.from([4]) };
    await guest.process.sendInput({ process, input: { input } });
  } else if (type === frame.endOfStdin) {
    await guest.process.closeStdin({ process });
  } else if (type === frame.resize && hasTerminal && payload.length >= 4) {
    const size = { rows: payload.readUInt16BE(0), cols: payload.readUInt16BE(2) };
    await guest.process.update({ process, pty: { size } });
  }
}

/** No faster than the client reads. */
async function send(socket: WebSocket, bytes: Buffer): Promise<void> {
  if (socket.readyState !== socket.OPEN) return;
  const sent = new Promise<void>((resolve) => socket.send(bytes, () => resolve()));
  if (socket.bufferedAmount < mostWaitingBytes) return;
  await Promise.race([sent, once(socket, "close")]);
}

const kill = (guest: GuestClient, pid: number): Promise<unknown> =>
  guest.process
    .sendSignal({ process: { selector: { case: "pid", value: pid } }, signal: Signal.SIGKILL })
    .catch(() => undefined); // It ended by itself.
