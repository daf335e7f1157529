import { setTimeout as pause } from "node:timers/promises";
import type { OwnPlatform } from "../own-platform.ts";
import type { Project } from "./projects.ts";

const patienceMs = 240_000;
const npm = "npm install --no-audit --no-fund --loglevel=error";
const quiet = { NUXT_TELEMETRY_DISABLED: "1", ASTRO_TELEMETRY_DISABLED: "1", NEXT_TELEMETRY_DISABLED: "1" };
/** Outside of the workspace: what a preview makes shall not be what is published. */
const python = "/tmp/venv/bin/python";
const pip = (packages: string) => `python3 -m venv /tmp/venv && ${python} -m pip install --quiet ${packages}`;
const flask = `${python} -m flask --app app run --host 0.0.0.0 --port $PORT`;

interface Preview {
  /** Once, before the server starts. */
  readonly install?: string;
  /** The server that its author runs while editing. */
  readonly start: string;
  readonly port?: number;
  /** Where the mark is, if not where the published app has it. */
  readonly path?: string;
}

/** What an author runs in the sandbox to see the app: the framework's own development server. By a name's first words. */
const previews: readonly (readonly [name: string, preview: Preview])[] = [
  ["plain HTML", { start: "python3 -m http.server $PORT" }],
  ["create-vite", { install: npm, start: "npx vite --host 0.0.0.0 --port $PORT" }],
  ["Next.js", { install: npm, start: "npx next dev -H 0.0.0.0 -p $PORT" }],
  ["create-next-app", { install: npm, start: "npx next dev -H 0.0.0.0 -p $PORT" }],
  ["Astro", { install: npm, start: "npx astro dev --host 0.0.0.0 --port $PORT" }],
  ["Nuxt", { install: npm, start: "npx nuxt dev --host 0.0.0.0 --port $PORT" }],
  ["SvelteKit", { install: npm, start: "npx vite dev --host 0.0.0.0 --port $PORT" }],
  ["sv create", { install: npm, start: "npx vite dev --host 0.0.0.0 --port $PORT" }],
  ["React Router", { install: npm, start: "npx react-router dev --host 0.0.0.0 --port $PORT" }],
  ["NestJS", { install: npm, start: "npx nest start --watch" }],
  ["Docusaurus", { install: npm, start: "npx docusaurus start --no-open --host 0.0.0.0 --port $PORT" }],
  ["Eleventy", { install: npm, start: "npx eleventy --serve --port=$PORT --output=/tmp/site" }],
  [
    "VitePress",
    // The page is drawn in the browser; its text arrives as a module.
    { install: npm, start: "npx vitepress dev --host 0.0.0.0 --port $PORT", path: "/index.md" },
  ],
  [
    "Parcel",
    {
      install: npm,
      start:
        "npx parcel serve index.html --host 0.0.0.0 --port $PORT --dist-dir /tmp/dist --cache-dir /tmp/cache",
    },
  ],
  ["Express without", { install: npm, start: "node index.js" }],
  ["Express", { install: npm, start: "node server.js" }],
  ["express-generator", { install: npm, start: "node bin/www" }],
  ["Fastify", { install: npm, start: "node server.js" }],
  ["Koa", { install: npm, start: "node app.js" }],
  ["Hono", { install: npm, start: "node src/index.ts" }],
  ["Nitro", { install: npm, start: "npx nitro dev --host 0.0.0.0 --port $PORT" }],
  ["Node.js without", { start: "node server.js" }],
  ["Node.js in TypeScript", { start: "node server.ts" }],
  ["npm with", { install: "npm ci --no-audit --no-fund", start: "node server.js" }],
  ["pnpm", { install: "npx --yes pnpm@10.34.8 install --frozen-lockfile", start: "node server.js" }],
  ["Yarn 1", { install: "npx --yes yarn@1.22.22 install --frozen-lockfile", start: "node a.js" }],
  ["Yarn 4", { install: `${npm} --no-package-lock`, start: "node server.js" }],
  ["Bun", { install: `${npm} --no-package-lock`, start: "node server.js" }],
  ["Procfile", { start: "node serve.mjs" }],
  [
    "Dockerfile",
    {
      install: "mkdir /tmp/app && echo MARK > /tmp/app/mark.txt",
      start: "cd /tmp/app && GREETING=hi node /workspace/run.mjs",
      port: 8080,
    },
  ],
  ["Python http.server", { start: "python3 main.py" }],
  [
    "Flask with gunicorn",
    { install: pip("-r requirements.txt"), start: `${python} -m gunicorn app:app -b 0.0.0.0:$PORT` },
  ],
  ["Flask", { install: pip("-r requirements.txt"), start: flask }],
  [
    "FastAPI",
    {
      install: pip("-r requirements.txt"),
      start: `${python} -m uvicorn main:app --host 0.0.0.0 --port $PORT`,
    },
  ],
  ...["uv", "Poetry"].map((name) => [name, { install: pip("flask==3.1.3"), start: flask }] as const),
  ["pyproject.toml", { install: pip("'flask>=3'"), start: flask }],
  [
    "a manifest",
    {
      install: "mkdir -p /tmp/out && echo MARK > /tmp/out/mark.txt",
      start: "python3 -m http.server --directory /tmp/out $PORT",
    },
  ],
];

function previewOf({ name }: Project): Preview {
  const found = previews.find(([words]) => name.startsWith(words));
  if (!found) throw new Error(`${name}: no word on how its author previews it`);
  return found[1];
}

/**
 * Runs the project's development server as a service of the sandbox and opens its preview.
 *
 * @param marked puts the run's mark into a text
 * @throws Error when the preview is refused for four minutes, or answers without the mark
 */
export async function previewProject(
  platform: OwnPlatform,
  id: string,
  project: Project,
  marked: (text: string) => string,
): Promise<void> {
  const { install, start, port = 3000, path } = previewOf(project);
  if (install) {
    const done = await platform.must("POST", `/sandboxes/${id}/exec`, {
      command: marked(install),
      timeout: 600,
    });
    if (done["exit_code"] !== 0)
      throw new Error(`preview: ${install}: ${String(done["stderr"]).slice(-600)}`);
  }
  await platform.must("POST", `/sandboxes/${id}/services`, {
    ...{ name: "dev", command: start, cwd: "/workspace", port },
    env: { PORT: String(port), HOST: "0.0.0.0", ...quiet },
  });
  const endsAt = Date.now() + patienceMs;
  let url: string | null = null;
  for (let refusal = ""; url === null;) {
    if (Date.now() > endsAt) throw new Error(`no preview: ${refusal}`);
    const { status, body } = await platform.api("POST", `/sandboxes/${id}/previews`, {
      port,
      visibility: "public",
    });
    const preview = (body["data"] ?? body) as Record<string, unknown>;
    if (status < 300) url = String(preview["url"]);
    else refusal = JSON.stringify(body).slice(0, 400);
  }
  const at = new URL(path ?? project.path ?? "/", url);
  let page = await platform.visit(at.href);
  // A development server may answer while it still compiles; it is given the same time.
  while (!(page.status === 200 && page.text.includes(marked("MARK")))) {
    if (Date.now() > endsAt) throw new Error(`preview: ${page.status} ${page.text.slice(0, 200)}`);
    await pause(500);
    page = await platform.visit(at.href);
  }
}
