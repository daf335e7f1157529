import { readFileSync } from "node:fs";
import { join } from "node:path";

/** A small app of a framework as its users begin with it. `MARK` in a file or command becomes the run's own mark. */
export interface Project {
  readonly name: string;
  readonly files?: Readonly<Record<string, string>>;
  /** Shell commands in the sandbox: a public starter from npm, and the mark put into it. */
  readonly generate?: readonly string[];
  /** Further fields of the publish call. */
  readonly publish?: Readonly<Record<string, unknown>>;
  readonly path?: string;
  readonly kind: "static" | "dynamic";
}

const pkg = (dependencies: Record<string, string>, scripts: Record<string, string> = {}, more: object = {}) =>
  JSON.stringify({ name: "app", private: true, type: "module", scripts, dependencies, ...more }, null, 2);

const vite = (template: string): Project => ({
  name: `create-vite ${template}`,
  kind: "static",
  generate: [
    `npx --yes create-vite@9.3.0 app --template ${template} --no-interactive </dev/null`,
    "cp -a app/. . && rm -rf app",
    "sed -i 's#<title>.*</title>#<title>MARK</title>#' index.html",
  ],
});

const flask = `from flask import Flask\napp = Flask(__name__)\n\n@app.get("/")\ndef home():\n    return "MARK"\n`;
const nodeServer = `import { createServer } from "node:http";\ncreateServer((_, res) => res.end("MARK")).listen(process.env.PORT ?? 3000);\n`;
const express = `import express from "express";\nconst app = express();\napp.get("/", (_, res) => res.send("MARK"));\napp.listen(process.env.PORT ?? 3000);\n`;

const nextPage = {
  "app/layout.js": "export default ({ children }) => <html><body>{children}</body></html>;\n",
  "app/page.js": "export default () => <p>MARK</p>;\n",
};
const nextPackage = pkg(
  { next: "16.4.6", react: "19.3.1", "react-dom": "19.3.1" },
  { build: "next build", start: "next start" },
);
/** SvelteKit 3 is configured in Vite's file, SvelteKit 2 in its own. */
const kit = (major: 2 | 3, adapter: string, version: string) => ({
  "package.json": pkg({
    ...(major === 3
      ? { "@sveltejs/kit": "3.2.0", "@sveltejs/vite-plugin-svelte": "7.3.1", vite: "8.3.8" }
      : { "@sveltejs/kit": "2.70.4", "@sveltejs/vite-plugin-svelte": "6.2.4", vite: "7.3.1" }),
    svelte: "5.57.3",
    [adapter]: version,
  }),
  ...(major === 3
    ? {
        "vite.config.js": `import adapter from "${adapter}";\nimport { sveltekit } from "@sveltejs/kit/vite";\nexport default { plugins: [sveltekit({ adapter: adapter() })] };\n`,
      }
    : {
        "svelte.config.js": `import adapter from "${adapter}";\nexport default { kit: { adapter: adapter() } };\n`,
        "vite.config.js": `import { sveltekit } from "@sveltejs/kit/vite";\nexport default { plugins: [sveltekit()] };\n`,
      }),
  "src/app.html": `<!doctype html><html><head>%sveltekit.head%</head><body><div>%sveltekit.body%</div></body></html>\n`,
  "src/routes/+page.svelte": "<p>MARK</p>\n",
});
const prerendered = { "src/routes/+layout.js": "export const prerender = true;\n" };

const reactRouter = {
  "package.json": pkg(
    {
      ...{ "@react-router/dev": "8.4.0", "@react-router/node": "8.4.0", "@react-router/serve": "8.4.0" },
      ...{ "react-router": "8.4.0", react: "19.3.1", "react-dom": "19.3.1", isbot: "5.1.31", vite: "8.3.8" },
    },
    { build: "react-router build", start: "react-router-serve ./build/server/index.js" },
  ),
  "vite.config.ts": `import { reactRouter } from "@react-router/dev/vite";\nexport default { plugins: [reactRouter()] };\n`,
  "app/root.jsx": `import { Outlet, Scripts } from "react-router";\nexport default () => <html><body><Outlet /><Scripts /></body></html>;\n`,
  "app/routes.ts": `import { index } from "@react-router/dev/routes";\nexport default [index("home.jsx")];\n`,
  "app/home.jsx": "export default () => <p>MARK</p>;\n",
};

export const projects: readonly Project[] = [
  {
    name: "plain HTML",
    kind: "static",
    files: { "index.html": "<p>MARK</p>\n", "style.css": "p{color:red}\n" },
  },
  ...["vanilla", "vanilla-ts", "react", "react-ts", "vue", "vue-ts", "svelte", "preact", "lit", "solid"].map(
    vite,
  ),
  {
    name: "Next.js, server",
    kind: "dynamic",
    files: { "package.json": nextPackage, ...nextPage },
  },
  {
    name: "Next.js, static export",
    kind: "static",
    files: {
      "package.json": nextPackage,
      ...nextPage,
      "next.config.mjs": 'export default { output: "export" };\n',
    },
  },
  {
    name: "create-next-app",
    kind: "dynamic",
    generate: [
      "npx --yes create-next-app@16.4.3 starter --yes --js --app --no-eslint --no-tailwind --no-src-dir --use-npm --skip-install --disable-git </dev/null",
      "cp -a starter/. . && rm -rf starter",
      // The starter's fonts come from a server that builds may not reach.
      `printf 'export default ({ children }) => <html><body>{children}</body></html>;\\n' > app/layout.js`,
      `printf 'export default () => <p>MARK</p>;\\n' > app/page.js`,
    ],
  },
  {
    name: "Astro, static",
    kind: "static",
    files: {
      "package.json": pkg({ astro: "7.3.5" }, { build: "astro build", start: "astro dev" }),
      "src/pages/index.astro": "---\n---\n<html><body>MARK</body></html>\n",
    },
  },
  {
    name: "Astro, Node.js adapter",
    kind: "dynamic",
    files: {
      "package.json": pkg({ astro: "7.3.5", "@astrojs/node": "11.1.6" }, { build: "astro build" }),
      "astro.config.mjs": `import node from "@astrojs/node";\nexport default { output: "server", adapter: node({ mode: "standalone" }) };\n`,
      "src/pages/index.astro": "---\n---\n<html><body>MARK</body></html>\n",
    },
  },
  {
    name: "Nuxt",
    kind: "dynamic",
    files: {
      "package.json": pkg({ nuxt: "4.5.2" }, { build: "nuxt build", dev: "nuxt dev" }),
      "nuxt.config.ts": "export default defineNuxtConfig({ telemetry: false });\n",
      "app/app.vue": "<template><p>MARK</p></template>\n",
    },
  },
  {
    name: "Nuxt, generated",
    kind: "static",
    files: {
      "package.json": pkg({ nuxt: "4.5.2" }, { build: "nuxt generate", dev: "nuxt dev" }),
      "nuxt.config.ts": "export default defineNuxtConfig({ telemetry: false });\n",
      "app/app.vue": "<template><p>MARK</p></template>\n",
    },
  },
  { name: "SvelteKit, adapter-node", kind: "dynamic", files: kit(3, "@sveltejs/adapter-node", "6.0.1") },
  {
    name: "SvelteKit, adapter-static",
    kind: "static",
    files: { ...kit(3, "@sveltejs/adapter-static", "4.0.1"), ...prerendered },
  },
  { name: "SvelteKit 2, adapter-node", kind: "dynamic", files: kit(2, "@sveltejs/adapter-node", "5.5.7") },
  {
    name: "SvelteKit 2, adapter-static",
    kind: "static",
    files: { ...kit(2, "@sveltejs/adapter-static", "3.0.10"), ...prerendered },
  },
  {
    name: "sv create, adapter-node",
    kind: "dynamic",
    generate: [
      "npx --yes sv@0.17.1 create app --template minimal --types ts --no-add-ons --no-install </dev/null",
      "cp -a app/. . && rm -rf app",
      `sed -i 's#"@sveltejs/adapter-auto": "[^"]*"#"@sveltejs/adapter-node": "5.5.7"#' package.json`,
      "sed -i 's#adapter-auto#adapter-node#' vite.config.ts",
      "echo '<p>MARK</p>' > src/routes/+page.svelte",
    ],
  },
  { name: "React Router, server", kind: "dynamic", files: reactRouter },
  {
    name: "React Router, files only",
    kind: "static",
    files: {
      ...reactRouter,
      "react-router.config.ts": `export default { ssr: false, prerender: ["/"] };\n`,
    },
  },
  {
    name: "NestJS",
    kind: "dynamic",
    generate: [
      "npx --yes @nestjs/cli@12.0.8 new app --skip-git --skip-install --package-manager npm </dev/null",
      "cp -a app/. . && rm -rf app",
      "sed -i 's/Hello World!/MARK/' src/app.service.ts",
    ],
  },
  {
    name: "Docusaurus",
    kind: "static",
    generate: [
      "npx --yes create-docusaurus@3.10.2 app classic --javascript --skip-install </dev/null",
      "cp -a app/. . && rm -rf app",
      `sed -i "s/title: 'My Site'/title: 'MARK'/" docusaurus.config.js`,
    ],
  },
  {
    name: "Eleventy",
    kind: "static",
    files: {
      "package.json": pkg({ "@11ty/eleventy": "3.1.8" }, { build: "eleventy", start: "eleventy --serve" }),
      "index.md": "# MARK\n",
    },
  },
  {
    name: "VitePress",
    kind: "static",
    files: {
      "package.json": pkg({ vitepress: "1.6.4", vue: "3.5.45" }, { build: "vitepress build" }),
      "index.md": "# MARK\n",
    },
  },
  {
    name: "Parcel",
    kind: "static",
    files: {
      "package.json": JSON.stringify({
        scripts: { build: "parcel build index.html" },
        dependencies: { parcel: "2.16.4" },
      }),
      "index.html": "<p>MARK</p>\n",
    },
  },
  {
    name: "Express",
    kind: "dynamic",
    files: { "package.json": pkg({ express: "5.3.0" }, { start: "node server.js" }), "server.js": express },
  },
  {
    name: "Express without a start script",
    kind: "dynamic",
    files: { "package.json": pkg({ express: "5.3.0" }), "index.js": express },
  },
  {
    name: "express-generator",
    kind: "dynamic",
    generate: [
      "npx --yes express-generator@4.16.1 --view=pug --force . </dev/null",
      "sed -i \"s/title: 'Express'/title: 'MARK'/\" routes/index.js",
    ],
  },
  {
    name: "Fastify",
    kind: "dynamic",
    files: {
      "package.json": pkg({ fastify: "5.12.8" }, { start: "node server.js" }),
      "server.js": `import Fastify from "fastify";\nconst app = Fastify();\napp.get("/", () => ({ mark: "MARK" }));\nawait app.listen({ port: Number(process.env.PORT), host: process.env.HOST });\n`,
    },
  },
  {
    name: "Koa",
    kind: "dynamic",
    files: {
      "package.json": pkg({ koa: "3.3.0" }, { start: "node app.js" }),
      "app.js": `import Koa from "koa";\nnew Koa().use((ctx) => { ctx.body = "MARK"; }).listen(process.env.PORT);\n`,
    },
  },
  {
    name: "Hono",
    kind: "dynamic",
    files: {
      "package.json": pkg({ hono: "4.13.19", "@hono/node-server": "2.1.8" }),
      "src/index.ts": `import { serve } from "@hono/node-server";\nimport { Hono } from "hono";\nconst app = new Hono();\napp.get("/", (c) => c.text("MARK"));\nserve({ fetch: app.fetch, port: Number(process.env.PORT) });\n`,
    },
  },
  {
    name: "Nitro",
    kind: "dynamic",
    files: {
      "package.json": pkg({ nitropack: "2.13.6" }, { build: "nitro build" }),
      "nitro.config.ts": "export default { compatibilityDate: '2025-01-01' };\n",
      "routes/index.ts": `export default eventHandler(() => "MARK");\n`,
    },
  },
  {
    name: "Node.js without packages",
    kind: "dynamic",
    files: { "server.js": nodeServer, "package.json": pkg({}) },
  },
  {
    name: "Node.js in TypeScript",
    kind: "dynamic",
    files: { "server.ts": nodeServer, "package.json": pkg({}) },
  },
  {
    name: "npm with a lockfile",
    kind: "dynamic",
    files: { "package.json": pkg({ express: "5.3.0" }, { start: "node server.js" }), "server.js": express },
    generate: ["npm install --package-lock-only --no-audit --no-fund"],
  },
  {
    name: "pnpm",
    kind: "dynamic",
    files: { "package.json": pkg({ express: "5.3.0" }, { start: "node server.js" }), "server.js": express },
    generate: ["npx --yes pnpm@10.34.8 install --lockfile-only"],
  },
  {
    name: "Yarn 1",
    kind: "dynamic",
    files: {
      "package.json": pkg({ koa: "3.3.0" }, { start: "node a.js" }),
      "a.js": `import Koa from "koa";\nnew Koa().use((ctx) => { ctx.body = "MARK"; }).listen(process.env.PORT);\n`,
    },
    generate: ["npx --yes yarn@1.22.22 install && rm -rf node_modules"],
  },
  {
    name: "Yarn 4",
    kind: "dynamic",
    files: { "package.json": pkg({ express: "5.3.0" }, { start: "node server.js" }), "server.js": express },
    generate: [
      'touch yarn.lock && YARN_HTTP_PROXY="$HTTP_PROXY" YARN_HTTPS_PROXY="$HTTPS_PROXY" YARN_HTTPS_CA_FILE_PATH="$npm_config_cafile" YARN_ENABLE_TELEMETRY=0 npx --yes @yarnpkg/cli-dist@4.18.1 install --mode=update-lockfile && rm -rf node_modules .pnp.cjs .yarn',
    ],
  },
  {
    name: "Bun's lockfile",
    kind: "dynamic",
    files: { "package.json": pkg({ express: "5.3.0" }, { start: "node server.js" }), "server.js": express },
    generate: ["npx --yes bun@1.4.5 install --lockfile-only"],
  },
  {
    name: "Procfile",
    kind: "dynamic",
    files: { Procfile: "web: node serve.mjs\n", "serve.mjs": nodeServer },
  },
  {
    name: "Dockerfile",
    kind: "dynamic",
    files: {
      Dockerfile:
        'FROM node:22\nWORKDIR /app\nCOPY . .\nRUN echo MARK > mark.txt\nENV GREETING=hi\nEXPOSE 8080\nCMD ["node", "/app/run.mjs"]\n',
      "run.mjs": `import { createServer } from "node:http";\nimport { readFileSync } from "node:fs";\ncreateServer((_, res) => res.end(process.env.GREETING + readFileSync("mark.txt"))).listen(8080);\n`,
    },
  },
  {
    name: "Python http.server",
    kind: "dynamic",
    files: {
      "main.py": `import os\nfrom http.server import BaseHTTPRequestHandler, HTTPServer\n\nclass Handler(BaseHTTPRequestHandler):\n    def do_GET(self):\n        self.send_response(200)\n        self.end_headers()\n        self.wfile.write(b"MARK")\n\nHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()\n`,
    },
  },
  { name: "Flask", kind: "dynamic", files: { "requirements.txt": "flask==3.1.3\n", "app.py": flask } },
  {
    name: "Flask with gunicorn",
    kind: "dynamic",
    files: { "requirements.txt": "flask==3.1.3\ngunicorn==23.0.0\n", "app.py": flask },
  },
  {
    name: "FastAPI",
    kind: "dynamic",
    files: {
      "requirements.txt": "fastapi==0.121.0\nuvicorn==0.38.0\n",
      "main.py": `from fastapi import FastAPI\n\napp = FastAPI()\n\n@app.get("/")\ndef home():\n    return {"mark": "MARK"}\n`,
    },
  },
  {
    name: "uv",
    kind: "dynamic",
    files: {
      "pyproject.toml":
        '[project]\nname = "app"\nversion = "0.1.0"\nrequires-python = ">=3.11"\ndependencies = ["flask==3.1.3"]\n',
      "app.py": flask,
    },
    generate: [
      'python3 -m pip install --quiet --target /tmp/uv uv==0.13.9 && SSL_CERT_FILE="$PIP_CERT" /tmp/uv/bin/uv lock --python /usr/bin/python3',
    ],
  },
  {
    name: "Poetry",
    kind: "dynamic",
    files: {
      "pyproject.toml":
        '[project]\nname = "app"\nversion = "0.1.0"\nrequires-python = ">=3.11,<4"\ndependencies = ["flask==3.1.3"]\n\n[tool.poetry]\npackage-mode = false\n',
      // As "poetry lock" writes it. Not made in the sandbox: Poetry asks for a JSON API that a mirror may lack.
      "poetry.lock": readFileSync(join(import.meta.dirname, "poetry.lock"), "utf8"),
      "app.py": flask,
    },
  },
  {
    name: "pyproject.toml without a lockfile",
    kind: "dynamic",
    files: {
      "pyproject.toml": '[project]\nname = "app"\nversion = "0.1.0"\ndependencies = ["flask>=3"]\n',
      "app.py": flask,
    },
  },
  {
    name: "a manifest with its own commands",
    kind: "dynamic",
    files: {
      "miosa.app.yml":
        "name: app\nbuild: mkdir -p out && echo MARK > out/mark.txt\nstart: python3 -m http.server --directory out $PORT\nreadiness:\n  path: /mark.txt\n",
    },
    path: "/mark.txt",
  },
];
