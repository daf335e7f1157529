import type { Agent } from "./agent.ts";
import {
  AgentError,
  answerEmpty,
  answerError,
  answerJson,
  readJsonObject,
  type Request,
  type Response,
} from "./http.ts";
import { PUBLIC_DOOR } from "./access.ts";
import type { Handler } from "./listener.ts";
import { endLargestProgram } from "./processes/relieve.ts";
import { serveServices } from "./services/routes.ts";

/**
 * Every endpoint of the agent. What a box may never use (Connect, uploads, probes) is loaded on
 * first use, so that a box answers as early as it can.
 */
export function createHandler(agent: Agent): Handler {
  const rpc = once(async () => (await import("./rpc.ts")).createRpcHandler(agent.environment));
  const contexts = once(
    async () => new (await import("./interpreter/contexts.ts")).Contexts(agent.environment),
  );
  const serve = async (request: Request, response: Response): Promise<void> => {
    const url = parseTarget(request.url ?? "/");
    if (url.pathname.startsWith("/process.Process/") || url.pathname.startsWith("/filesystem.Filesystem/")) {
      agent.access.check(request, url.searchParams);
      (await rpc())(request, response);
      return;
    }
    const isPublic = request.headers[PUBLIC_DOOR] !== undefined;
    if (!isPublic && (url.pathname === "/services" || url.pathname.startsWith("/services/"))) {
      const rest = url.pathname.slice("/services/".length);
      await serveServices(agent.supervisor, rest, url.searchParams, request, response);
      return;
    }
    if (url.pathname.startsWith("/interpreter/")) {
      const { serveInterpreter } = await import("./interpreter/routes.ts");
      const rest = url.pathname.slice("/interpreter".length);
      if (await serveInterpreter(await contexts(), rest, request, response)) return;
    }
    const served =
      (!isPublic && (await serveOwn(agent, rpc, url, request, response))) ||
      (await serveEnvd(agent, url, request, response, isPublic));
    if (!served) {
      throw new AgentError("NOT_FOUND", 404, `The agent has no ${request.method} ${url.pathname}.`);
    }
  };
  return (request, response) => {
    response.on("error", () => undefined);
    serve(request, response).catch((error: unknown) => {
      answerError(response, error);
      // What is left of the body would otherwise hold up the connection's next request.
      request.resume();
    });
  };
}

async function serveOwn(
  agent: Agent,
  rpc: () => Promise<unknown>,
  url: URL,
  request: Request,
  response: Response,
): Promise<boolean> {
  switch (`${request.method} ${url.pathname}`) {
    case "GET /ready":
      answerJson(response, 200, agent.readiness);
      return true;
    case "PUT /config":
      answerJson(response, 200, await agent.configure(await readJsonObject(request)));
      return true;
    case "POST /self-test": {
      const { selfTest } = await import("./self-test.ts");
      const [seen] = await Promise.all([selfTest(agent.environment, agent.supervisor), rpc()]);
      answerJson(response, 200, seen);
      return true;
    }
    case "POST /relieve": {
      answerJson(response, 200, endLargestProgram());
      return true;
    }
    case "GET /ports": {
      const { listeningPorts } = await import("./network/ports.ts");
      answerJson(response, 200, await listeningPorts());
      return true;
    }
    case "POST /probe": {
      const { parseProbe, probe } = await import("./network/probe.ts");
      const wanted = parseProbe(await readJsonObject(request));
      const gone = new AbortController();
      response.on("close", () => gone.abort());
      answerJson(response, 200, await probe(wanted, agent.supervisor, gone.signal));
      return true;
    }
    default:
      return false;
  }
}

async function serveEnvd(
  agent: Agent,
  url: URL,
  request: Request,
  response: Response,
  isPublic: boolean,
): Promise<boolean> {
  const query = url.searchParams;
  const route = `${request.method} ${url.pathname}`;
  if (route === "GET /health") {
    answerEmpty(response);
    return true;
  }
  // Setting the box up is for its owner, the platform.
  if (!envdRoutes.has(route) || (isPublic && route === "POST /init")) return false;
  agent.access.check(request, query);
  if (route === "GET /metrics") {
    const { readMetrics } = await import("./metrics.ts");
    answerJson(response, 200, await readMetrics(agent.environment.workdir, agent.limits));
  } else if (route === "GET /envs") {
    answerJson(response, 200, agent.environment.given);
  } else if (route === "POST /init") {
    agent.initialise(await readJsonObject(request));
    answerEmpty(response);
  } else {
    const { compose, download, upload } = await import("./files/routes.ts");
    if (route === "GET /files") await download(agent.environment, query, request, response);
    else if (route === "POST /files") await upload(agent.environment, query, request, response);
    else await compose(agent.environment, request, response);
  }
  return true;
}

const envdRoutes = new Set([
  "GET /metrics",
  "GET /envs",
  "POST /init",
  "GET /files",
  "POST /files",
  "POST /files/compose",
]);

function parseTarget(target: string): URL {
  try {
    return new URL(target, "http://box");
  } catch {
    throw new AgentError("INVALID", 400, "The request target is not a path.");
  }
}

function once<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | null = null;
  return () => (made ??= make());
}
