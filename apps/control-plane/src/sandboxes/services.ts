import { PlatformError, execRoutes as r } from "@platform/contract";
import type { GuestClient, GuestService, LogLine, ServiceRecord } from "@platform/guest-protocol";
import { query, queryOne } from "@platform/postgres";
import { handler, openEventStream, type Call, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { guestProblem, liveSandbox } from "./access.ts";
import { forgetDesired, setDesired, setStopped, toDesired, toGuestService } from "./desired-services.ts";
import { absolute, execResultView, isMissingFolder, notStarted, timeoutMsOf } from "./exec.ts";
import type { DesiredService, SandboxRow } from "./store.ts";

/** Durable commands, processes and services are all supervised by the guest under a name of their own. */
interface CommandRow {
  readonly id: string;
  readonly sandbox_id: string;
  readonly service_name: string;
  readonly kind: "command" | "process" | "service";
  readonly command: string;
  readonly cwd: string | null;
  /** The name that the caller gave to a process; need not be unique. */
  readonly label: string | null;
  readonly created_at: Date;
}

const statusOf = (record: ServiceRecord | null) =>
  record === null ? "stopped" : record.status === "backoff" ? "restarting" : record.status;

function view(row: CommandRow, record: ServiceRecord | null) {
  const exit = record === null ? null : (record.exitCode ?? (record.signal ? -1 : null));
  return {
    id: row.id,
    name: row.kind === "service" ? row.service_name : (row.label ?? row.id),
    kind: row.kind,
    status: statusOf(record),
    state: statusOf(record),
    pid: record?.pid ?? null,
    exit_code: record?.status === "running" ? null : exit,
    signal: record?.signal ?? null,
    restarts: record?.restarts ?? 0,
    command: row.command,
    cwd: row.cwd,
    started_at: record?.startedAt ?? row.created_at.toISOString(),
    stopped_at: record?.stoppedAt ?? null,
    log_path: `/var/log/services/${row.service_name}.log`,
  };
}

const linesOf = (log: readonly LogLine[]) =>
  log.filter((entry) => entry.stream !== "agent").map((entry) => entry.line);

export function serviceHandlers(platform: Platform): Handler[] {
  const { pool } = platform;
  const live = async (call: Call) => liveSandbox(platform, call.caller, call.params["id"]!);
  const records = async (guest: GuestClient) =>
    new Map((await guest.services.list()).map((record) => [record.name, record]));

  async function start(
    call: Call,
    kind: CommandRow["kind"],
    name: string | null,
    spec: Omit<GuestService, "name">,
    label: string | null = null,
  ): Promise<{ row: CommandRow; record: ServiceRecord }> {
    const { row: sandbox, guest } = await live(call);
    const id = call.idFor(kind);
    const serviceName = name ?? `${kind}-${id}`;
    const row = (await queryOne<CommandRow>(
      pool,
      `insert into commands (id, sandbox_id, service_name, kind, command, cwd, label) values ($1, $2, $3, $4, $5, $6, $7)
       on conflict (id) do update set command = excluded.command returning *`,
      [await stableId(sandbox, kind, name, id), sandbox.id, serviceName, kind, spec.command, spec.cwd, label],
    ))!;
    const record = await guest.services.put({ name: serviceName, ...spec }).catch((error: unknown) => {
      throw guestProblem(error, `The ${kind}`);
    });
    return { row, record };
  }

  /** A service of a name keeps its id when it is started again. */
  async function stableId(
    sandbox: SandboxRow,
    kind: string,
    name: string | null,
    id: string,
  ): Promise<string> {
    if (name === null) return id;
    const row = await queryOne<{ id: string }>(
      pool,
      "select id from commands where sandbox_id = $1 and kind = $2 and service_name = $3",
      [sandbox.id, kind, name],
    );
    return row?.id ?? id;
  }

  async function find(
    call: Call,
    key: string,
  ): Promise<{
    row: CommandRow;
    record: ServiceRecord | null;
    guest: GuestClient;
    desired: DesiredService | undefined;
  }> {
    const { row: sandbox, guest } = await live(call);
    const known = await records(guest);
    const rows = await query<CommandRow>(pool, "select * from commands where sandbox_id = $1", [sandbox.id]);
    const row =
      rows.find(
        (one) =>
          one.id === key ||
          one.service_name === key ||
          String(known.get(one.service_name)?.pid ?? "") === key,
      ) ?? bootService(sandbox, known, key);
    if (!row)
      throw new PlatformError(
        "PROCESS_NOT_FOUND",
        `There is no process, command or service "${key.slice(0, 100)}" in this sandbox. List them with GET /sandboxes/${sandbox.id}/processes.`,
      );
    return {
      row,
      record: known.get(row.service_name) ?? null,
      guest,
      desired:
        row.kind === "service" ? sandbox.services.find((one) => one.name === row.service_name) : undefined,
    };
  }

  async function listAll(call: Call, kinds: readonly CommandRow["kind"][]) {
    const { row: sandbox, guest } = await live(call);
    const known = await records(guest);
    const rows = await query<CommandRow>(
      pool,
      "select * from commands where sandbox_id = $1 and kind = any($2) order by created_at",
      [sandbox.id, kinds],
    );
    const boot = kinds.includes("service")
      ? [...new Set([...sandbox.services.map(({ name }) => name), ...known.keys()])]
          .map((name) => bootService(sandbox, known, name))
          .filter((row) => row !== null)
      : [];
    return [...boot.filter((one) => !rows.some((row) => row.service_name === one.service_name)), ...rows].map(
      (row) => view(row, known.get(row.service_name) ?? null),
    );
  }

  const logs = async (call: Call, key: string, tail: number) => {
    const { row, guest } = await find(call, key);
    return { lines: linesOf(await guest.services.logs(row.service_name, tail).catch(() => [])) };
  };
  const stop = async (call: Call, key: string) => {
    const { row, guest } = await find(call, key);
    await guest.services.sendSignal(row.service_name, "SIGTERM").catch(() => undefined); // It may have ended already.
    if (row.kind === "service") await setStopped(platform, row.sandbox_id, row.service_name, true);
    await guest.services.remove(row.service_name);
    return view(row, null);
  };

  return [
    handler(r.command, async (call) => {
      const { body } = call;
      if (body.timeout_seconds !== undefined || body.stdin !== undefined)
        return runSynchronously(platform, call as Call, body);
      const limit = body.timeout === undefined ? "" : `timeout -k 5 ${timeoutMsOf(body) / 1000} `;
      const command = limit ? `${limit}sh -c ${quote(body.command)}` : body.command;
      const { row, record } = await start(call as Call, "command", null, {
        command,
        cwd: absolute(body.cwd),
        env: body.env ?? {},
        restart: "never",
      });
      return view({ ...row, command: body.command }, record);
    }),
    handler(r.commandList, async (call) => listAll(call as Call, ["command"])),
    handler(r.commandGet, async (call) => {
      const { row, record } = await find(call as Call, call.params["cid"]!);
      return view(row, record);
    }),
    handler(r.commandLogs, async (call) => logs(call as Call, call.params["cid"]!, call.query.tail)),
    handler(r.commandKill, async (call) => {
      const { row, guest } = await find(call as Call, call.params["cid"]!);
      await guest.services.sendSignal(row.service_name, "SIGKILL").catch(() => undefined); // It may have ended already.
      // The kill was asked for, its end not yet seen: `status` says the one, `state` the other.
      return { ...view(row, await guest.services.get(row.service_name).catch(() => null)), status: "killed" };
    }),
    handler(r.processCreate, async (call) => {
      const { body } = call;
      const { row, record } = await start(
        call as Call,
        "process",
        null,
        { command: body.command, cwd: absolute(body.cwd), env: body.env ?? {}, restart: "never" },
        body.name ?? null,
      );
      return view(row, record);
    }),
    handler(r.processList, async (call) => listAll(call as Call, ["process", "service", "command"])),
    handler(r.processGet, async (call) => {
      const { row, record } = await find(call as Call, call.params["pid"]!);
      return view(row, record);
    }),
    handler(r.processKill, async (call) => stop(call as Call, call.params["pid"]!)),
    handler(r.processStdin, async (call) => {
      const { row, guest } = await find(call as Call, call.params["pid"]!);
      await guest.services.writeStdin(row.service_name, call.body.data).catch((error: unknown) => {
        throw guestProblem(error, "The process");
      });
      return { written: Buffer.byteLength(call.body.data) };
    }),
    handler(r.processSignal, async (call) => {
      const { row, guest } = await find(call as Call, call.params["pid"]!);
      await guest.services.sendSignal(row.service_name, call.body.signal).catch((error: unknown) => {
        throw guestProblem(error, "The process");
      });
      return { id: row.id, signal: call.body.signal };
    }),
    handler(r.processLogs, async (call) => logs(call as Call, call.params["pid"]!, call.query.tail)),
    handler(r.processStream, async (call) => {
      const { row, guest } = await find(call as Call, call.params["pid"]!);
      const stream = openEventStream(call.reply);
      let ended = false;
      try {
        for await (const event of guest.services.follow(row.service_name, 1000, stream.signal)) {
          if ("exit" in event) {
            ended = true;
            stream.send("exit", { exit_code: event.exit.code ?? -1, signal: event.exit.signal });
          } else if (event.stream !== "agent") stream.send(event.stream, { line: event.line });
        }
      } catch (error) {
        platform.log.debug({ err: error }, "a process stream ended");
      }
      if (!ended)
        stream.send("exit", {
          exit_code: -2,
          error: {
            code: "SANDBOX_AGENT_UNAVAILABLE",
            message: "The process's output can no longer be read.",
            retryable: true,
            request_id: call.requestId,
          },
        });
      stream.close();
    }),
    handler(r.serviceList, async (call) => listAll(call as Call, ["service"])),
    handler(r.serviceCreate, async (call) => {
      const desired = toDesired(platform, call.body);
      const { row: sandbox } = await live(call as Call);
      const before = sandbox.services.find((one) => one.name === desired.name);
      // Wanted first: from here on every box of this sandbox has it, whatever becomes of this call.
      await setDesired(platform, sandbox.id, desired);
      const { name: _, ...spec } = toGuestService(platform, desired);
      const { row, record } = await start(call as Call, "service", desired.name, spec).catch(
        async (error: unknown) => {
          // Refused, so not wanted. Any other failure leaves it wanted, and the next box will have it.
          if (error instanceof PlatformError && error.status < 500 && !error.isRetryable)
            await (before
              ? setDesired(platform, sandbox.id, before)
              : forgetDesired(platform, sandbox.id, desired.name));
          throw error;
        },
      );
      return view(row, record);
    }),
    handler(r.serviceGet, async (call) => {
      const { row, record, guest, desired } = await find(call as Call, call.params["name"]!);
      return { ...view(row, record), health: await healthOf(guest, record, desired) };
    }),
    handler(r.serviceRestart, async (call) => {
      const { row, record, guest, desired } = await find(call as Call, call.params["name"]!);
      if (desired) await setStopped(platform, row.sandbox_id, row.service_name, false);
      // A stopped service is not known to the guest any more: start it from what was stored.
      const now =
        record === null
          ? await guest.services.put(
              desired
                ? toGuestService(platform, desired)
                : {
                    name: row.service_name,
                    command: row.command,
                    cwd: row.cwd ?? "/workspace",
                    env: {},
                    restart: "always",
                  },
            )
          : await guest.services.restart(row.service_name);
      return view(row, now);
    }),
    handler(r.serviceLogs, async (call) => logs(call as Call, call.params["name"]!, call.query.tail)),
  ];
}

/** Services named in the create call have no row of their own. */
function bootService(
  sandbox: SandboxRow,
  known: ReadonlyMap<string, ServiceRecord>,
  name: string,
): CommandRow | null {
  const record = known.get(name) ?? sandbox.services.find((one) => one.name === name);
  if (!record || /^(command|process|terminal)-/.test(name)) return null;
  return {
    id: `${sandbox.id}:${name}`,
    sandbox_id: sandbox.id,
    service_name: name,
    kind: "service",
    command: record.command,
    cwd: record.cwd,
    label: null,
    created_at: sandbox.created_at,
  };
}

/** A look at its port now. A service without one has no health but its process's state. */
async function healthOf(
  guest: GuestClient,
  record: ServiceRecord | null,
  desired: DesiredService | undefined,
) {
  if (desired?.port === undefined) return null;
  if (!record) return { status: "stopped", reason: "stopped", http_status: null, latency_ms: null };
  const seen = await guest
    .probe(desired.port, { path: desired.health_path ?? "/", timeoutMs: 0, service: desired.name })
    .catch((error: unknown) => {
      throw guestProblem(error, `The service ${desired.name}`);
    });
  return {
    status: seen.ok ? "healthy" : "unhealthy",
    reason: seen.reason,
    http_status: seen.httpStatus,
    latency_ms: seen.latencyMs,
  };
}

const quote = (text: string) => `'${text.replaceAll("'", `'\\''`)}'`;

async function runSynchronously(
  platform: Platform,
  call: Call,
  body: {
    command: string;
    cwd?: string | undefined;
    env?: Record<string, string> | undefined;
    timeout_seconds?: number | undefined;
    stdin?: string | undefined;
  },
) {
  const { guest } = await liveSandbox(platform, call.caller, call.params["id"]!);
  const result = await guest
    .exec(body.command, {
      cwd: absolute(body.cwd),
      env: body.env ?? {},
      timeoutMs: (body.timeout_seconds ?? 60) * 1000,
      maxOutputBytes: 1024 * 1024,
      signal: call.signal,
      ...(body.stdin === undefined ? {} : { stdin: body.stdin }),
    })
    .catch((error: unknown) => {
      if (isMissingFolder(error)) return notStarted(absolute(body.cwd));
      throw guestProblem(error, "The command");
    });
  return execResultView(result);
}
