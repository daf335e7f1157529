import type { FastifyInstance, FastifyRequest } from "fastify";
import {
  PlatformError,
  problems,
  refusals,
  toOpenApi,
  type ProblemCode,
  type RouteDefinition,
} from "@platform/contract";

export interface SiteOptions {
  readonly routes: readonly RouteDefinition[];
  /** Name and origin of the tenant that this request's host belongs to. */
  readonly site: (request: FastifyRequest) => Promise<{ name: string; apiUrl: string; color: string }>;
}

const escape = (text: string) => text.replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);

const frame = (
  title: string,
  color: string,
  body: string,
) => `<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escape(title)}</title><style>:root{color-scheme:light dark;--brand:${color}}body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:2rem 1rem}
h1{border-bottom:4px solid var(--brand)}code,pre{font-family:ui-monospace,monospace}pre{overflow:auto;padding:1rem;border:1px solid #8885;border-radius:6px}
details{border:1px solid #8885;border-radius:6px;margin:.5rem 0;padding:.5rem 1rem}summary{cursor:pointer}b{display:inline-block;min-width:4.5rem}table{border-collapse:collapse}td,th{border:1px solid #8885;padding:.25rem .5rem;text-align:left}td code,summary code,p code{overflow-wrap:anywhere}</style></head><body>${body}</body></html>`;

function reference(
  name: string,
  apiUrl: string,
  color: string,
  routes: readonly RouteDefinition[],
  document: Record<string, unknown>,
): string {
  const paths = document["paths"] as Record<
    string,
    Record<
      string,
      { requestBody?: unknown; parameters: unknown[]; responses: Record<string, { description: string }> }
    >
  >;
  const tags = [...new Set(routes.map((route) => route.tag))];
  const sections = tags.map((tag) => {
    const entries = routes
      .filter((route) => route.tag === tag)
      .map((route) => {
        const operation =
          paths[route.path.replace(/:(\w+)/g, "{$1}").replace(/\*$/, "{path}")]![route.method.toLowerCase()]!;
        const body = operation.requestBody
          ? `<p>Body</p><pre>${escape(JSON.stringify(operation.requestBody, null, 2))}</pre>`
          : "";
        const parameters =
          operation.parameters.length > 0
            ? `<p>Parameters</p><pre>${escape(JSON.stringify(operation.parameters, null, 2))}</pre>`
            : "";
        const scope = route.scope ? `<p>Scope: <code>${escape(route.scope)}</code></p>` : "";
        return `<details id="${route.id}"><summary><b>${route.method}</b> <code>${escape(route.path)}</code> ${escape(route.summary)}</summary>${scope}${parameters}${body}<p>${escape(operation.responses["default"]!.description)}</p></details>`;
      });
    return `<h2>${escape(tag)}</h2>${entries.join("")}`;
  });
  return frame(
    `${name} API`,
    color,
    `<h1>${escape(name)} API</h1><p>Base URL <code>${escape(apiUrl)}/api/v1</code>. Send <code>Authorization: Bearer …</code>. Machine-readable: <a href="/openapi.json">openapi.json</a>. Refusals: <a href="/problems">problems</a>.</p>${sections.join("")}`,
  );
}

const marked = (text: string) => escape(text).replace(/`([^`]+)`/g, "<code>$1</code>");

function refusalHtml(code: ProblemCode): string {
  const refusal = refusals[code];
  if (!refusal) return "";
  const patch = refusal.patch
    ? `<p><b>Patch</b> ${marked(refusal.patch)}, in <code>error.details.patch</code></p>`
    : "";
  return `<p>${marked(refusal.when)}</p><p><b>To do</b> ${marked(refusal.todo)}</p>${patch}`;
}

/** Health, OpenAPI, the reference and the problem pages: no key needed. */
export function registerPublicPages(app: FastifyInstance, { routes, site }: SiteOptions): void {
  const document = async (request: FastifyRequest) => {
    const { name, apiUrl } = await site(request);
    return toOpenApi(routes, {
      title: `${name} API`,
      serverUrl: `${apiUrl}/api/v1`,
      description: `The HTTP API of ${name}.`,
    });
  };
  app.get("/health", async () => ({ status: "ok" }));
  app.get("/openapi.json", async (request) => document(request));
  app.get("/docs", async (request, reply) => {
    const { name, apiUrl, color } = await site(request);
    return reply
      .type("text/html; charset=utf-8")
      .send(reference(name, apiUrl, color, routes, await document(request)));
  });
  app.get("/", async (_request, reply) => reply.redirect("/docs"));
  app.get("/problems", async (request, reply) => {
    const { name, color } = await site(request);
    const rows = Object.entries(problems).map(
      ([code, problem]) =>
        `<tr><td><a href="/problems/${code}"><code>${code}</code></a></td><td>${problem.status}</td><td>${escape(problem.title)}</td></tr>`,
    );
    return reply
      .type("text/html; charset=utf-8")
      .send(
        frame(
          `${name} API problems`,
          color,
          `<h1>${escape(name)} API problems</h1><table><tr><th>Code</th><th>Status</th><th>Meaning</th></tr>${rows.join("")}</table>`,
        ),
      );
  });
  app.get<{ Params: { code: string } }>("/problems/:code", async (request, reply) => {
    const problem = problems[request.params.code as ProblemCode] as
      { status: number; title: string; retryable?: boolean } | undefined;
    if (!problem || !Object.hasOwn(problems, request.params.code))
      throw new PlatformError("NOT_FOUND", "There is no problem of this code. See /problems.");
    const { name, color } = await site(request);
    const users = routes
      .filter((route) => route.problems?.includes(request.params.code as ProblemCode))
      .map(
        (route) =>
          `<li><a href="/docs#${route.id}"><code>${route.method} ${escape(route.path)}</code></a></li>`,
      );
    const body = `<h1>${escape(problem.title)}</h1><p><code>${escape(request.params.code)}</code>, status ${problem.status}. ${problem.retryable ? "The same request may succeed later; wait for Retry-After." : "Repeating the same request gives the same answer: change it first."}</p>${refusalHtml(request.params.code as ProblemCode)}<p>The answer's <code>error.message</code> says what happened and what to do; <code>error.details</code> holds the evidence.</p>${users.length > 0 ? `<p>Given by</p><ul>${users.join("")}</ul>` : ""}<p><a href="/problems">All problems</a></p>`;
    return reply.type("text/html; charset=utf-8").send(frame(`${name}: ${request.params.code}`, color, body));
  });
}
