import { sandboxAccessRoutes as r, PlatformError } from "@platform/contract";
import { Signal, type GuestClient } from "@platform/guest-protocol";
import { handler, serveTunnel, upgrade, type Call, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { absolute, guestProblem, liveSandbox } from "../sandboxes/index.ts";
import { execProtocol, serveProcess } from "./exec-socket.ts";
import { sshHandlers } from "./ssh.ts";
import { dial } from "./tunnel.ts";

const tagOf = (sid: string) => `terminal-${sid}`;

/** The shell that is there: not every template has bash. */
const shellCommand = 'exec "$(command -v bash || command -v sh)" -i';

async function terminalPid(guest: GuestClient, sid: string): Promise<number> {
  const { processes } = await guest.process.list({}).catch((error: unknown) => {
    throw guestProblem(error, "The terminal");
  });
  const found = processes.find((one) => one.tag === tagOf(sid));
  if (found) return found.pid;
  throw new PlatformError(
    "PROCESS_NOT_FOUND",
    "There is no such terminal, or its shell has ended. Open a new one with POST …/terminal.",
  );
}

const pairs = (env: string | string[] | undefined): Record<string, string> =>
  Object.fromEntries(
    [env ?? []].flat().map((one) => {
      const at = one.indexOf("=");
      if (at < 1)
        throw new PlatformError("VALIDATION_FAILED", "env is NAME=VALUE.", {
          errors: { env: ["is NAME=VALUE"] },
        });
      return [one.slice(0, at), one.slice(at + 1)];
    }),
  );

const isTrue = (text: string | undefined) => text !== undefined && text !== "0" && text !== "false";

export function terminalHandlers(platform: Platform): Handler[] {
  const live = (call: Pick<Call, "caller" | "params">) =>
    liveSandbox(platform, call.caller, call.params["id"]!);
  return [
    handler(r.terminalCreate, async (call) => {
      const { cols, rows, shell, cwd, env } = call.body;
      const { guest } = await live(call);
      const sid = call.idFor("terminal");
      const left = new AbortController();
      try {
        const events = guest.process.start(
          {
            process: {
              cmd: shell ?? "/bin/sh",
              args: shell ? [] : ["-c", shellCommand],
              cwd: absolute(cwd),
              envs: env,
            },
            pty: { size: { cols, rows } },
            tag: tagOf(sid),
          },
          { signal: left.signal },
        );
        for await (const { event } of events) {
          if (event?.event.case !== "start") continue;
          const scheme = call.request.protocol === "https" ? "wss" : "ws";
          const url = `${scheme}://${call.request.host}/api/v1/sandboxes/${call.params["id"]}/terminal/${sid}`;
          return { id: sid, url, pid: event.event.value.pid };
        }
      } catch (error) {
        throw guestProblem(error, "The terminal");
      } finally {
        // The shell outlives the stream that started it: whoever connects reads on.
        left.abort();
      }
      throw new PlatformError("SANDBOX_AGENT_UNAVAILABLE", "The shell did not start. Retry.", {
        retryAfterMs: 1000,
      });
    }),
    handler(r.terminalDelete, async (call) => {
      const { guest } = await live(call);
      const pid = await terminalPid(guest, call.params["sid"]!).catch((error: unknown) => {
        if (error instanceof PlatformError && error.code === "PROCESS_NOT_FOUND") return null;
        throw error;
      });
      if (pid !== null)
        await guest.process
          .sendSignal({ process: { selector: { case: "pid", value: pid } }, signal: Signal.SIGKILL })
          .catch(() => undefined); // It ended meanwhile.
      return { id: call.params["sid"], deleted: true };
    }),
    handler(r.terminalSocket, async (call) => {
      const { guest } = await live(call);
      const pid = await terminalPid(guest, call.params["sid"]!);
      const socket = await upgrade(call.request, call.reply, [execProtocol]);
      await serveProcess(platform, socket, guest, { type: "connect", pid });
    }),
    handler(r.execSocket, async (call) => {
      const { command, args, tty, cols, rows, cwd, env } = call.query;
      const envs = pairs(env);
      const { guest } = await live(call);
      const socket = await upgrade(call.request, call.reply, [execProtocol]);
      const given = [args ?? []].flat();
      // One command without arguments is a shell line; with arguments each stays what it is.
      const program =
        command === undefined
          ? { cmd: "/bin/sh", args: ["-c", shellCommand] }
          : given.length > 0
            ? { cmd: command, args: given }
            : { cmd: "/bin/sh", args: ["-c", command] };
      await serveProcess(platform, socket, guest, {
        type: "start",
        process: { ...program, cwd: absolute(cwd), envs },
        size: isTrue(tty) ? { cols, rows } : null,
      });
    }),
    handler(r.tunnel, async (call) => {
      const { row } = await live(call);
      const port = Number(call.params["port"]);
      if (!Number.isInteger(port) || port < 1 || port > 65_535)
        throw new PlatformError("VALIDATION_FAILED", "port is a number from 1 to 65535.", {
          errors: { port: ["is no port"] },
        });
      await serveTunnel(call as unknown as Call, await dial(platform, row.box_key, port, call.signal));
    }),
    ...sshHandlers(platform),
  ];
}
