/** A project with one fault, and the code that a publish of it must be refused with. */
export interface Broken {
  readonly name: string;
  readonly code: string;
  readonly files: Readonly<Record<string, string>>;
  /** Shell commands in the sandbox before the publish. */
  readonly prepare?: readonly string[];
  readonly publish?: Readonly<Record<string, unknown>>;
  /** Variables of the sandbox. */
  readonly env?: Readonly<Record<string, string>>;
}

const pkg = (scripts: object = {}, dependencies: object = {}, more: object = {}) =>
  JSON.stringify({ name: "app", private: true, type: "module", scripts, dependencies, ...more }, null, 2);
const server = (listen = "process.env.PORT, '0.0.0.0'", before = "") =>
  `${before}\nimport { createServer } from "node:http";\ncreateServer((_, res) => res.end("ok")).listen(${listen});\n`;
const start = { start: "node server.js" };
const app = (text: string, dependencies: object = {}, more: object = {}) => ({
  "package.json": pkg(start, dependencies, more),
  "server.js": text,
});
const python = (text: string, requirements?: string) => ({
  "main.py": text,
  ...(requirements === undefined ? {} : { "requirements.txt": requirements }),
});
const serve = (bind: string, before = "") =>
  `import os\n${before}\nfrom http.server import SimpleHTTPRequestHandler, HTTPServer\nHTTPServer(${bind}, SimpleHTTPRequestHandler).serve_forever()\n`;
const page = { "index.html": "<p>ok</p>\n" };
const secret = "sk_live_4f9a8b7c6d5e4f3a2b1c";
const withSecret = { env: { PAYMENT_KEY: secret } };

export const broken: readonly Broken[] = [
  // Nothing to publish, or nothing to read it by
  { name: "an empty workspace", code: "SOURCE_EMPTY", files: {} },
  {
    name: "a comma too many in package.json",
    code: "PACKAGE_JSON_INVALID",
    files: {
      "package.json": '{"scripts": {"start": "node server.js",}}',
      "server.js": server()
        .replace("import { createServer } from", "const { createServer } = require(")
        .replace('"node:http";', '"node:http");'),
    },
  },
  {
    name: "a package.json cut off",
    code: "PACKAGE_JSON_INVALID",
    files: { "package.json": '{"scripts": {"start"' },
  },
  {
    name: "a pyproject.toml cut off",
    code: "PYPROJECT_INVALID",
    files: { "pyproject.toml": "[project\nname=", "main.py": "" },
  },
  {
    name: "Pipenv",
    code: "PACKAGE_MANAGER_UNAVAILABLE",
    files: { Pipfile: "[packages]\n", "main.py": serve('("0.0.0.0", int(os.environ["PORT"]))') },
  },
  {
    name: "a manifest that is no YAML",
    code: "MANIFEST_INVALID",
    files: { ...page, "miosa.app.yml": "name: [\n" },
  },
  {
    name: "a manifest with a port that cannot be",
    code: "MANIFEST_INVALID",
    files: { ...app(server()), "miosa.app.yml": "port: 700000\n" },
  },
  {
    name: "a manifest of another schema",
    code: "MANIFEST_INVALID",
    files: { ...page, "miosa.app.yml": "schema_version: 9\n" },
  },
  {
    name: "a manifest with a list as its build",
    code: "MANIFEST_INVALID",
    files: { ...page, "miosa.app.yml": "build: [a, b]\n" },
  },
  { name: "an absolute link", code: "SYMLINK_ESCAPES", files: page, prepare: ["ln -s /etc/passwd users"] },
  {
    name: "a link out of the folder",
    code: "SYMLINK_ESCAPES",
    files: page,
    prepare: ["mkdir a && ln -s ../../b a/c"],
  },
  // No start, no output
  {
    name: "a server without a start script",
    code: "START_COMMAND_MISSING",
    files: { "package.json": pkg(), "backend.js": server() },
  },
  {
    name: "a package without anything to run",
    code: "START_COMMAND_MISSING",
    files: { "package.json": pkg({}, { ms: "2.1.3" }) },
  },
  {
    name: "dynamic, but only a page",
    code: "START_COMMAND_MISSING",
    files: page,
    publish: { deployment_type: "dynamic" },
  },
  {
    name: "an output folder of another name",
    code: "STATIC_OUTPUT_NOT_FOUND",
    files: { "package.json": pkg({ build: "mkdir -p www && echo hi > www/index.html" }) },
  },
  {
    name: "an output_path that is not there",
    code: "STATIC_OUTPUT_NOT_FOUND",
    files: { "site/index.html": "hi" },
    publish: { output_path: "dist" },
  },
  { name: "no page anywhere", code: "STATIC_OUTPUT_NOT_FOUND", files: { "readme.txt": "hi" } },
  // Dependencies
  {
    name: "a version that does not exist",
    code: "DEPENDENCY_NOT_FOUND",
    files: app(server(), { ms: "99.0.0" }),
  },
  {
    name: "a package that does not exist",
    code: "DEPENDENCY_NOT_FOUND",
    files: app(server(), { "no-such-package-4f9a8b7c": "1.0.0" }),
  },
  {
    name: "a Python version that does not exist",
    code: "DEPENDENCY_NOT_FOUND",
    files: python(serve('("0.0.0.0", int(os.environ["PORT"]))'), "itsdangerous==99.0\n"),
  },
  {
    name: "a lockfile behind package.json",
    code: "LOCKFILE_OUT_OF_DATE",
    files: app(server(), {}),
    prepare: [
      "npm install --package-lock-only --no-audit --no-fund",
      `sed -i 's/"dependencies": {}/"dependencies": {"ms": "2.1.3"}/' package.json`,
    ],
  },
  {
    name: "packages that exclude each other",
    code: "DEPENDENCY_CONFLICT",
    files: app(server(), { react: "19.3.1", "react-dom": "18.3.1" }),
  },
  {
    name: "a package that only the sandbox had",
    code: "DEPENDENCY_MISSING",
    files: app(server(undefined, 'import ms from "ms";')),
    prepare: ["npm install --no-save ms@2.1.3"],
  },
  {
    name: "a scoped package that is not listed",
    code: "DEPENDENCY_MISSING",
    files: app(server(undefined, 'import { serve } from "@hono/node-server";'), { ms: "2.1.3" }),
  },
  {
    name: "a part of a package that is not listed",
    code: "DEPENDENCY_MISSING",
    files: app(server(undefined, 'import get from "lodash/get.js";')),
  },
  {
    name: "a build tool that is not listed",
    code: "DEPENDENCY_MISSING",
    files: { "package.json": pkg({ build: "tsc --version && mkdir -p dist && echo hi > dist/index.html" }) },
  },
  {
    name: "a Python module that is not listed",
    code: "DEPENDENCY_MISSING",
    files: python(serve('("0.0.0.0", int(os.environ["PORT"]))', "import itsdangerous"), "blinker==1.9.0\n"),
  },
  {
    name: "a Python module of another name",
    code: "DEPENDENCY_MISSING",
    files: python(serve('("0.0.0.0", int(os.environ["PORT"]))', "import dotenv")),
  },
  {
    name: "CommonJS that requires an unlisted package",
    code: "DEPENDENCY_MISSING",
    files: {
      "package.json": pkg(start, {}, { type: "commonjs" }),
      "server.js":
        'require("ms"); require("node:http").createServer((_, r) => r.end("ok")).listen(process.env.PORT);',
    },
  },
  // Build
  {
    name: "a build script that is not there",
    code: "SCRIPT_MISSING",
    files: { ...app(server()) },
    publish: { build_command: "npm run compile" },
  },
  {
    name: "a static build that fails",
    code: "STATIC_BUILD_FAILED",
    files: { "package.json": pkg({ build: "echo boom >&2; exit 3" }), "index.html": "x" },
  },
  {
    name: "a server's build that fails",
    code: "BUILD_FAILED",
    files: { ...app(server()), "package.json": pkg({ ...start, build: "exit 4" }) },
  },
  {
    name: "a build command that is not there",
    code: "SOURCE_FILE_MISSING",
    files: app(server()),
    publish: { build_command: "./make-it.sh" },
  },
  {
    name: "an import in other letters",
    code: "SOURCE_FILE_MISSING",
    files: { ...app(server(undefined, 'import "./Helper.js";')), "helper.js": "" },
  },
  {
    name: "a start file that is not there",
    code: "START_FILE_MISSING",
    files: { "package.json": pkg({ start: "node backend.js" }), "server.js": server() },
  },
  {
    name: "a start file that the build does not write",
    code: "START_FILE_MISSING",
    files: { "package.json": pkg({ start: "node dist/server.js", build: "true" }), "index.js": server() },
  },
  // Start
  {
    name: "ES modules in a CommonJS package",
    code: "MODULE_FORMAT",
    files: { "package.json": pkg(start, {}, { type: "commonjs" }), "server.js": server() },
  },
  {
    name: "CommonJS in a package of ES modules",
    code: "MODULE_FORMAT",
    files: {
      "package.json": pkg(start),
      "server.js": 'require("node:http").createServer((_, r) => r.end("ok")).listen(process.env.PORT);',
    },
  },
  {
    name: "a variable that the manifest requires",
    code: "REQUIRED_ENV_MISSING",
    files: { ...app(server()), "miosa.app.yml": "requirements:\n  secrets: [MAIL_TOKEN]\n" },
  },
  {
    name: "a variable that the app asks for",
    code: "REQUIRED_ENV_MISSING",
    files: app(server(undefined, 'if (!process.env.MAIL_TOKEN) throw new Error("MAIL_TOKEN is required");')),
  },
  {
    name: "a variable that Python asks for",
    code: "REQUIRED_ENV_MISSING",
    files: python(serve('("0.0.0.0", int(os.environ["PORT"]))', 'token = os.environ["MAIL_TOKEN"]')),
  },
  {
    name: "a server on loopback",
    code: "PREFLIGHT_BOUND_TO_LOOPBACK",
    files: app(server("process.env.PORT, '127.0.0.1'")),
  },
  {
    name: "a server on localhost",
    code: "PREFLIGHT_BOUND_TO_LOOPBACK",
    files: app(server("process.env.PORT, 'localhost'")),
  },
  {
    name: "a Python server on loopback",
    code: "PREFLIGHT_BOUND_TO_LOOPBACK",
    files: python(serve('("127.0.0.1", int(os.environ["PORT"]))')),
  },
  {
    name: "a command that binds to loopback",
    code: "PREFLIGHT_BOUND_TO_LOOPBACK",
    files: { Procfile: "web: python3 -m http.server --bind 127.0.0.1 $PORT\n", "a.txt": "" },
  },
  {
    name: "a server on a port of its own",
    code: "PREFLIGHT_NOT_LISTENING",
    files: app(server("4123, '0.0.0.0'")),
  },
  {
    name: "a process that never listens",
    code: "PREFLIGHT_NOT_LISTENING",
    files: { Procfile: "web: sleep 600\n" },
  },
  {
    name: "an app that ends at once",
    code: "PREFLIGHT_EXITED",
    files: { "package.json": pkg({ start: "node -e process.exit(3)" }) },
  },
  { name: "a syntax error", code: "PREFLIGHT_EXITED", files: app("const = 1;\n") },
  {
    name: "a health path that answers 500",
    code: "PREFLIGHT_UNHEALTHY",
    files: app(
      `import { createServer } from "node:http";\ncreateServer((_, res) => res.writeHead(500).end()).listen(process.env.PORT);\n`,
    ),
  },
  // Only in the sandbox
  {
    name: "a file beside the app",
    code: "SOURCE_FILE_MISSING",
    files: app(
      server(undefined, 'import { readFileSync } from "node:fs";\nreadFileSync("/home/user/prices.json");'),
    ),
    prepare: ["echo '{}' > /home/user/prices.json"],
  },
  {
    name: "a file beside a Python app",
    code: "SOURCE_FILE_MISSING",
    files: python(serve('("0.0.0.0", int(os.environ["PORT"]))', 'open("/home/user/prices.json")')),
    prepare: ["echo '{}' > /home/user/prices.json"],
  },
  {
    name: "an .env file that the app reads itself",
    code: "SOURCE_FILE_MISSING",
    files: {
      ...app(server(undefined, 'import { readFileSync } from "node:fs";\nreadFileSync("/workspace/.env");')),
      ".env": "A=1\n",
    },
  },
  {
    name: "a database in the sandbox",
    code: "PREFLIGHT_SERVICE_UNREACHABLE",
    files: app(
      server(
        undefined,
        'import { connect } from "node:net";\nconnect(5432, "127.0.0.1").on("error", (error) => { throw error; });',
      ),
    ),
  },
  {
    name: "a database whose name only the sandbox knows, for an app that reads DATABASE_URL",
    code: "PREFLIGHT_SERVICE_UNREACHABLE",
    files: app(
      server(
        undefined,
        'import { connect } from "node:net";\nconst url = new URL(process.env.DATABASE_URL ?? "postgres://db.internal.invalid:5432/app");\nawait new Promise((resolve, reject) => connect(Number(url.port), url.hostname, resolve).on("error", reject));',
      ),
    ),
  },
  {
    name: "a cache in the sandbox that is asked for at each request",
    code: "PREFLIGHT_SERVICE_UNREACHABLE",
    files: app(
      `import { createServer } from "node:http";\nimport { connect } from "node:net";\ncreateServer((_, res) => connect(6379, "127.0.0.1").on("error", (error) => { console.error(error); res.writeHead(500).end(); })).listen(process.env.PORT);\n`,
    ),
  },
  {
    name: "a variable that only the sandbox has",
    code: "REQUIRED_ENV_MISSING",
    files: app(server(undefined, "process.env.CRM_ADDRESS.trim();")),
    env: { CRM_ADDRESS: "https://crm.example" },
  },
  {
    name: "a program that was installed beside the app",
    code: "DEPENDENCY_MISSING",
    files: { "package.json": pkg({ start: "tsx server.ts" }), "server.ts": server() },
    prepare: ["npm install --prefix /home/user/.global tsx@4.20.6 --no-audit --no-fund"],
  },
  // Secrets
  {
    name: "a secret in a note",
    code: "SECRET_IN_ARTIFACT",
    files: { ...app(server()), "notes.txt": `a\nkey ${secret}\n` },
    publish: withSecret,
  },
  {
    name: "a secret in a source",
    code: "SECRET_IN_ARTIFACT",
    files: { ...app(server()), "config.js": `export default "${secret}";` },
    publish: withSecret,
  },
  {
    name: "a secret in base64 in a page",
    code: "SECRET_IN_ARTIFACT",
    files: { "index.html": `<p>${Buffer.from(`x${secret}`).toString("base64")}</p>` },
    publish: withSecret,
  },
  {
    name: "a secret in a compressed asset",
    code: "SECRET_IN_ARTIFACT",
    files: page,
    prepare: [`echo 'const key = "${secret}";' | gzip > app.js.gz`],
    publish: withSecret,
  },
];
