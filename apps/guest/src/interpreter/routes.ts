import {
  AgentError,
  answerEmpty,
  answerJson,
  readJsonObject,
  stringMap,
  type Request,
  type Response,
} from "../http.ts";
import { languageOf, type Contexts } from "./contexts.ts";
import type { CellEvent, Kernel } from "./kernel.ts";

const nameForm = /^[\w.-]{1,64}$/;
const environmentName = /^[A-Za-z_]\w{0,255}$/;

const text = (value: unknown): string | undefined =>
  typeof value === "string" && value !== "" ? value : undefined;

/**
 * `POST /execute`, `GET|POST /contexts`, `DELETE /contexts/ID`, `POST /contexts/ID/restart` and `GET /health`, as
 * clients of code interpreters know them. `context` names a context that is made on first use.
 *
 * @returns whether there is such a call
 */
export async function serveInterpreter(
  contexts: Contexts,
  path: string,
  request: Request,
  response: Response,
): Promise<boolean> {
  const [, head, id, action, more] = path.split("/");
  const call = `${request.method} ${[head, id && ":id", action].filter(Boolean).join("/")}`;
  if (more !== undefined) return false;
  switch (call) {
    case "GET health":
      answerJson(response, 200, "OK");
      return true;
    case "GET contexts":
      answerJson(response, 200, contexts.list());
      return true;
    case "POST contexts": {
      const { language, cwd } = await readJsonObject(request);
      answerJson(response, 200, await contexts.create(languageOf(language), text(cwd)));
      return true;
    }
    case "DELETE contexts/:id":
      contexts.remove(decodeURIComponent(id!));
      answerEmpty(response);
      return true;
    case "POST contexts/:id/restart":
      contexts.restart(decodeURIComponent(id!));
      answerEmpty(response);
      return true;
    case "POST execute":
      await execute(contexts, await readJsonObject(request), response);
      return true;
    default:
      return false;
  }
}

async function execute(contexts: Contexts, body: Record<string, unknown>, response: Response): Promise<void> {
  const { code, context_id: contextId, language, env_vars: env } = body;
  if (typeof code !== "string") throw new AgentError("INVALID", 400, `"code" has to be a string.`);
  const name = text(body["context"]) ?? "default";
  if (!nameForm.test(name))
    throw new AgentError("INVALID", 400, `"context" has 1 to 64 letters, digits, ".", "_" and "-".`);
  const given = env === undefined || env === null ? {} : stringMap(env, "env_vars");
  const wrong = Object.keys(given).find((key) => !environmentName.test(key));
  if (wrong !== undefined) throw new AgentError("INVALID", 400, `"${wrong}" is no name of a variable.`);
  const wanted = text(contextId);
  const asked = languageOf(language);
  const id = wanted ?? contexts.named(asked, name);
  const gone = new AbortController();
  response.on("close", () => gone.abort());
  const cell = { code, env: given, ...(wanted === undefined ? { language: asked } : {}) };
  await contexts.run(id, cell, (kernel) => writeTo(response, kernel), gone.signal);
  response.end();
}

/** A line of JSON for each event, at the reader's pace. */
function writeTo(response: Response, kernel: Kernel): (event: CellEvent) => void {
  response.writeHead(200, {
    "content-type": "application/x-ndjson; charset=utf-8",
    "cache-control": "no-store",
  });
  response.flushHeaders();
  const release = () => kernel.hold(false);
  response.on("drain", release).once("close", release);
  return (event) => {
    if (response.destroyed || response.closed) return;
    if (!response.write(`${JSON.stringify(event)}\n`)) kernel.hold(true);
  };
}
