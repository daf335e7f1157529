import { createServer } from "node:http";
import { WebSocketServer } from "ws";
import { findIntake, listIntakes, parseIntake, storeIntake } from "./intake.js";
import { formPage, listPage, liveScript, messagePage, rowMarkup, stylesheet } from "./pages.js";

const bodyLimit = 64 * 1024;

class BadRequest extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function readBody(request) {
  const chunks = [];
  let size = 0;
  for await (const chunk of request) {
    size += chunk.length;
    if (size > bodyLimit) throw new BadRequest(413, "The form is too large.");
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

async function readInput(request) {
  const text = await readBody(request);
  if ((request.headers["content-type"] ?? "").startsWith("application/json")) {
    try {
      const value = JSON.parse(text);
      if (value && typeof value === "object" && !Array.isArray(value)) return value;
    } catch {
      // Answered below, together with JSON that is no object.
    }
    throw new BadRequest(400, "The body is not a JSON object.");
  }
  return Object.fromEntries(new URLSearchParams(text));
}

function send(response, status, type, body, headers = {}) {
  response.writeHead(status, {
    "content-type": type,
    "content-length": Buffer.byteLength(body),
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'self'; img-src data:; connect-src 'self' ws: wss:",
    ...headers,
  });
  response.end(body);
}
const html = (response, status, body) => send(response, status, "text/html; charset=utf-8", body);
const json = (response, status, body) => send(response, status, "application/json", JSON.stringify(body));

function routes(pool, version) {
  return {
    "GET /": (_request, response) => html(response, 200, formPage({ version })),
    "POST /intake": async (request, response) => {
      const input = await readInput(request);
      const parsed = parseIntake(input);
      if (parsed.errors)
        return html(response, 422, formPage({ version, values: input, errors: parsed.errors }));
      await storeIntake(pool, parsed.value);
      send(response, 303, "text/plain", "", { location: "/intakes" });
    },
    "GET /intakes": async (_request, response) =>
      html(response, 200, listPage(await listIntakes(pool), version)),
    "GET /api/intake": async (_request, response) =>
      json(response, 200, { data: await listIntakes(pool, 200) }),
    "POST /api/intake": async (request, response) => {
      const parsed = parseIntake(await readInput(request));
      if (parsed.errors) return json(response, 422, { errors: parsed.errors });
      json(response, 201, { data: await storeIntake(pool, parsed.value) });
    },
    "GET /healthz": async (_request, response) => {
      try {
        await pool.query("select 1 from intake_forms limit 1");
        json(response, 200, { status: "ok", database: "ok", version });
      } catch (error) {
        const reason = error.code === "42P01" ? "run the migration first" : "the database does not answer";
        json(response, 503, { status: "error", database: "error", reason, version });
      }
    },
    "GET /version": (_request, response) => json(response, 200, { version }),
    "GET /style.css": (_request, response) => send(response, 200, "text/css", stylesheet),
    "GET /live.js": (_request, response) => send(response, 200, "text/javascript", liveScript),
  };
}

/**
 * @param {{ pool: import("pg").Pool, version: string }} dependencies
 * @returns the server, not yet listening, and what announces a stored row and ends all live feeds
 */
export function createApp({ pool, version }) {
  const table = routes(pool, version);
  const server = createServer(async (request, response) => {
    const path = new URL(request.url ?? "/", "http://app").pathname;
    const method = request.method === "HEAD" ? "GET" : request.method;
    const handler = table[`${method} ${path}`];
    if (!handler) return html(response, 404, messagePage("Not found", "There is no such page.", version));
    try {
      await handler(request, response);
    } catch (error) {
      if (error instanceof BadRequest) return json(response, error.status, { error: error.message });
      console.error(`${request.method} ${path}: ${error.message}`);
      if (!response.headersSent) {
        html(
          response,
          503,
          messagePage("Please try again", "The form could not be stored or read just now.", version),
        );
      }
    }
  });

  const live = new WebSocketServer({ server, path: "/live", maxPayload: 1024 });
  live.on("connection", (socket) => {
    socket.on("error", () => socket.terminate());
    socket.send(JSON.stringify({ type: "hello", version }));
  });

  return {
    server,
    async announce(id) {
      const row = await findIntake(pool, id);
      if (!row) return;
      const message = JSON.stringify({ type: "intake", id: row.id, row, html: rowMarkup(row) });
      for (const socket of live.clients) socket.send(message);
    },
    async close() {
      for (const socket of live.clients) socket.close(1001, "The server restarts.");
      await new Promise((resolve) => {
        server.close(resolve);
        server.closeIdleConnections();
      });
    },
  };
}
