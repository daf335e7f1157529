import { constants } from "node:os";
import type { GuestService, LogEvent } from "@platform/guest-protocol";
import {
  AgentError,
  answerEmpty,
  answerJson,
  readBody,
  readJsonObject,
  stringMap,
  type Request,
  type Response,
} from "../http.ts";
import type { Service } from "./service.ts";
import type { Supervisor } from "./supervisor.ts";

const MAX_STDIN_BYTES = 8 * 1024 * 1024;
/** A follower that reads too slowly is cut off past this much waiting output, in bytes. */
const MAX_FOLLOW_BACKLOG_BYTES = 8 * 1024 * 1024;
const MAX_GRACE_MS = 300_000;
const invalid = (message: string) => new AgentError("INVALID", 400, message);

/** @param rest path below /services, such as `web/logs` */
export async function serveServices(
  supervisor: Supervisor,
  rest: string,
  query: URLSearchParams,
  request: Request,
  response: Response,
): Promise<void> {
  const [encoded = "", ...actions] = rest.split("/");
  const name = decodeName(encoded);
  switch (`${request.method} ${actions.join("/")}`) {
    case "GET ":
      answerJson(response, 200, name === "" ? supervisor.list() : supervisor.get(name).record);
      return;
    case "PUT ":
      answerJson(response, 200, await supervisor.put(toSpec(name, await readJsonObject(request))));
      return;
    case "DELETE ":
      await supervisor.remove(name, graceOf(query));
      answerEmpty(response);
      return;
    case "POST restart":
      answerJson(response, 200, await supervisor.restart(name));
      return;
    case "POST stdin":
      await writeStdin(supervisor.get(name), await readBody(request, MAX_STDIN_BYTES));
      answerEmpty(response);
      return;
    case "POST signal":
      sendSignal(supervisor.get(name), (await readJsonObject(request))["signal"]);
      answerEmpty(response);
      return;
    case "GET logs":
      answerJson(response, 200, { lines: supervisor.get(name).log.tail(tailOf(query)) });
      return;
    case "GET logs/stream":
      follow(supervisor.get(name), tailOf(query), response);
      return;
    default:
      throw new AgentError("NOT_FOUND", 404, `There is no ${request.method} /services/${rest}.`);
  }
}

function decodeName(encoded: string): string {
  try {
    return decodeURIComponent(encoded);
  } catch {
    throw invalid("The service name is not well encoded.");
  }
}

/** From SIGTERM to SIGKILL, in ms; undefined: the usual. */
function graceOf(query: URLSearchParams): number | undefined {
  if (!query.has("grace_ms")) return undefined;
  const grace = Number(query.get("grace_ms"));
  if (!Number.isInteger(grace) || grace < 0 || grace > MAX_GRACE_MS)
    throw invalid(`grace_ms has to be a whole number from 0 to ${MAX_GRACE_MS}.`);
  return grace;
}

function tailOf(query: URLSearchParams): number {
  const tail = Number(query.get("tail") ?? 100);
  if (!Number.isInteger(tail) || tail < 0) throw invalid("tail has to be a whole number from 0.");
  return tail;
}

function toSpec(name: string, body: Record<string, unknown>): GuestService {
  // The name becomes a file name; `.` and `..` are folders.
  if (!/^[A-Za-z0-9_.-]{1,64}$/.test(name) || /^\.+$/.test(name)) {
    throw invalid("A service name has 1 to 64 letters, digits, dots, dashes and underscores.");
  }
  const { command, cwd = "/workspace", env = {}, restart = "never" } = body;
  if (typeof command !== "string" || command === "") throw invalid(`"command" has to be a shell command.`);
  if (typeof cwd !== "string") throw invalid(`"cwd" has to be a path.`);
  if (restart !== "always" && restart !== "never") throw invalid(`"restart" is "always" or "never".`);
  return { name, command, cwd, env: stringMap(env, "env"), restart };
}

const notRunning = (service: Service) =>
  new AgentError("CONFLICT", 409, `Service "${service.spec.name}" does not run; restart it first.`);

async function writeStdin(service: Service, data: Buffer): Promise<void> {
  let written: boolean;
  try {
    written = await service.writeStdin(data);
  } catch {
    throw new AgentError("CONFLICT", 409, `Service "${service.spec.name}" no longer reads its input.`);
  }
  if (!written) throw notRunning(service);
}

function sendSignal(service: Service, name: unknown): void {
  if (typeof name !== "string" || !(name in constants.signals)) {
    throw invalid(`"signal" has to be a signal name such as "SIGHUP".`);
  }
  if (!service.signal(name as NodeJS.Signals)) throw notRunning(service);
}

/** One JSON object a line: what was logged, then what is, then the end of a service that stays down. */
function follow(service: Service, tail: number, response: Response): void {
  response.writeHead(200, { "content-type": "application/x-ndjson" });
  response.flushHeaders?.();
  const send = (event: LogEvent) => {
    response.write(`${JSON.stringify(event)}\n`);
    if (response.writableLength > MAX_FOLLOW_BACKLOG_BYTES) response.destroy();
  };
  for (const line of service.log.tail(tail)) send(line);
  const stopLog = service.log.follow(send);
  const stopEnd = service.onEnd((end) => {
    send(end);
    response.end();
  });
  response.on("close", () => {
    stopLog();
    stopEnd();
  });
}
