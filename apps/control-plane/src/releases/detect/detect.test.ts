import assert from "node:assert/strict";
import { test } from "node:test";
import { PlatformError, type PublishFields } from "@platform/contract";
import { detect, planBuild, treeOf, type Plan } from "./index.ts";

async function plan(
  files: Record<string, string | object>,
  fields: Partial<PublishFields> = {},
): Promise<Plan> {
  const texts = Object.fromEntries(
    Object.entries(files).map(([path, value]) => [
      path,
      typeof value === "string" ? value : JSON.stringify(value),
    ]),
  );
  const tree = treeOf(texts);
  const manifest = texts["miosa.app.yml"];
  return planBuild(fields as PublishFields, {
    manifest: manifest === undefined ? undefined : { name: "miosa.app.yml", text: manifest },
    root: "/workspace",
    tree,
    detected: await detect(tree),
  });
}

const path = 'PATH="$PWD/node_modules/.bin:$PATH"; export PATH; ';
const app = (dependencies: object, scripts: object = {}, more: object = {}) => ({
  "package.json": { dependencies, scripts, ...more },
});
const listens = "require('http').createServer().listen(process.env.PORT)";

interface Case {
  files: Record<string, string | object>;
  kind: "static" | "dynamic";
  start?: string;
  first?: string;
  build?: string | null;
}

const cases: Record<string, Case> = {
  "a Vite app": {
    files: app({ vite: "7.0.0" }, { dev: "vite", build: "vite build", preview: "vite preview" }),
    ...{ kind: "static", first: "dist", build: "npm run build" },
  },
  "a Vite app whose start script is its development server": {
    files: app({ vite: "7.0.0" }, { start: "vite --host", build: "vite build" }),
    ...{ kind: "static", first: "dist" },
  },
  "a Vite app with a server of its own": {
    files: app({ vite: "7.0.0", express: "5.0.0" }, { start: "node server.js", build: "vite build" }),
    ...{ kind: "dynamic", start: `${path}exec node server.js` },
  },
  "Next.js": {
    files: app({ next: "16.0.0" }, { build: "next build", start: "next start" }),
    ...{ kind: "dynamic", start: `${path}exec next start` },
  },
  "Next.js that exports files, with its starter's start script": {
    files: {
      ...app({ next: "16.0.0" }, { build: "next build", start: "next start" }),
      "next.config.ts": "export default { output: 'export' }",
    },
    ...{ kind: "static", first: "out" },
  },
  Nuxt: {
    files: app({ nuxt: "4.0.0" }, { build: "nuxt build" }),
    ...{ kind: "dynamic", start: `${path}exec node .output/server/index.mjs` },
  },
  "Astro without an adapter": {
    files: app({ astro: "5.0.0" }, { build: "astro build", start: "astro dev" }),
    ...{ kind: "static", first: "dist" },
  },
  "Astro with the Node.js adapter": {
    files: app({ astro: "5.0.0", "@astrojs/node": "9.0.0" }, { build: "astro build" }),
    ...{ kind: "dynamic", start: `${path}exec node ./dist/server/entry.mjs` },
  },
  "SvelteKit with adapter-static": {
    files: app({ "@sveltejs/kit": "2.0.0", "@sveltejs/adapter-static": "3.0.0", vite: "7.0.0" }),
    ...{ kind: "static", first: "build", build: "vite build" },
  },
  NestJS: {
    files: {
      ...app({ "@nestjs/core": "11.0.0" }, { build: "nest build", start: "nest start" }),
      "src/main.ts": "import { NestFactory } from '@nestjs/core'",
    },
    ...{ kind: "dynamic", start: `${path}exec node dist/main.js` },
  },
  Docusaurus: {
    files: app({ "@docusaurus/core": "3.0.0" }, { start: "docusaurus start", build: "docusaurus build" }),
    ...{ kind: "static", first: "build" },
  },
  Angular: {
    files: app({ "@angular/cli": "20.0.0" }, { start: "ng serve", build: "ng build" }),
    ...{ kind: "static", first: "dist/*/browser" },
  },
  "Express without a start script": {
    files: { ...app({ express: "5.0.0" }), "index.js": `const express = require("express"); ${listens}` },
    ...{ kind: "dynamic", start: "exec node index.js" },
  },
  "plain HTML": { files: { "index.html": "<p>" }, kind: "static", first: "." },
  "a Flask app that does not run itself": {
    files: { "requirements.txt": "flask==3.1.0", "app.py": "from flask import Flask\napp = Flask(__name__)" },
    kind: "dynamic",
    start: `export PYTHONPATH="$PWD/.python" PATH="$PWD/.python/bin:$PATH" PYTHONUNBUFFERED=1; exec python3 -m flask --app app run --host 0.0.0.0 --port "$PORT"`,
  },
  "a Procfile": {
    files: { ...app({}, { start: "node a.js" }), Procfile: "worker: node b.js\nweb: node c.js\n" },
    ...{ kind: "dynamic", start: "node c.js" },
  },
};

for (const [name, { files, kind, start, first, build }] of Object.entries(cases)) {
  test(`${name} is ${kind}`, async () => {
    const seen = await plan(files);
    assert.equal(seen.kind, kind);
    assert.equal(seen.start, start ?? null);
    if (first !== undefined) assert.equal(seen.outputs[0], first);
    if (build !== undefined) assert.equal(seen.build, build);
  });
}

test("what the request says wins over the manifest, and the manifest over the files", async () => {
  const files = {
    ...app({ vite: "7.0.0" }, { build: "vite build" }),
    "miosa.app.yml": "name: a\nbuild: make\nstart: ./run\nport: 4000\n",
  };
  const fromManifest = await plan(files);
  assert.deepEqual([fromManifest.build, fromManifest.start, fromManifest.port], ["make", "./run", 4000]);
  const asked = await plan(files, { build_command: "other", run_command: "mine", port: 5000 });
  assert.deepEqual([asked.build, asked.start, asked.port], ["other", "mine", 5000]);
  assert.equal((await plan({ ...files, "miosa.app.yml": "name: a\nbuild: false\n" })).build, null);
});

const lockfiles: Record<string, [string, string, RegExp]> = {
  "package-lock.json": ["{}", "npm", /^npm ci/],
  "pnpm-lock.yaml": ["lockfileVersion: '9.0'", "pnpm", /--frozen-lockfile/],
  "yarn.lock": ["# yarn lockfile v1", "yarn", /--frozen-lockfile/],
  "bun.lock": ["{}", "bun", /--frozen-lockfile/],
};
for (const [file, [text, manager, command]] of Object.entries(lockfiles)) {
  test(`${file} means ${manager}, and what is installed is decided by it`, async () => {
    const seen = await plan({ ...app({ a: "1.0.0" }, { start: "node a" }), [file]: text });
    assert.equal(seen.packageManager, manager);
    assert.match(seen.install!, command);
    assert.ok(seen.installs?.decidedBy.includes(file));
  });
}

test("an install script may read any file, so that nothing is kept of such an install", async () => {
  const files = {
    ...app({ a: "1.0.0" }, { start: "node a", postinstall: "node b" }),
    "package-lock.json": "{}",
  };
  assert.equal((await plan(files)).installs, null);
});

test("the newer Yarn is told from the old one by its lockfile", async () => {
  const seen = await plan({ ...app({}, { start: "node a" }), "yarn.lock": "__metadata:\n  version: 8\n" });
  assert.match(seen.install!, /YARN_NODE_LINKER=node-modules .* --immutable$/);
  assert.match(seen.tools!, /@yarnpkg\/cli-dist@4/);
});

test("a Dockerfile fills in what nothing else says", async () => {
  const seen = await plan({
    Dockerfile: `FROM node:22 AS base
WORKDIR /srv/app
RUN apt-get update && apt-get install -y git
COPY . .
RUN make \\
  all
ENV MODE=live
EXPOSE 8080/tcp
CMD ["node", "/srv/app/serve it.js"]`,
  });
  assert.equal(seen.kind, "dynamic");
  assert.equal(seen.build, "make all");
  assert.equal(seen.port, 8080);
  assert.equal(seen.start, "export MODE='live'; node './serve it.js'");
  assert.ok(seen.because.some((line) => line.includes("FROM node:22 AS base is not used")));
  assert.ok(seen.because.some((line) => line.includes("needs root")));
});

const refusals: Record<string, [Record<string, string | object>, string, string]> = {
  "a package.json with one comma too many": [{ "package.json": '{"a": 1,}' }, "PACKAGE_JSON_INVALID", ""],
  "a package without start or page": [app({ pg: "8.0.0" }), "START_COMMAND_MISSING", "/run_command"],
  "SvelteKit's adapter-auto": [
    app({ "@sveltejs/kit": "2.0.0", "@sveltejs/adapter-auto": "6.0.0" }),
    ...(["FRAMEWORK_ADAPTER_MISSING", "/devDependencies/@sveltejs~1adapter-auto"] as const),
  ],
  "a manifest with a bad port": [{ "miosa.app.yml": "port: 99999999\n" }, "MANIFEST_INVALID", "/port"],
  "a manifest of another schema": [
    { "miosa.app.yml": "schema_version: 7\n" },
    "MANIFEST_INVALID",
    "/schema_version",
  ],
  "a broken pyproject.toml": [{ "pyproject.toml": "[project\n" }, "PYPROJECT_INVALID", ""],
  Pipenv: [{ Pipfile: "" }, "PACKAGE_MANAGER_UNAVAILABLE", ""],
};
for (const [name, [files, code, pointer]] of Object.entries(refusals)) {
  test(`${name} is refused with ${code} and its place`, async () => {
    await assert.rejects(plan(files), (error) => {
      assert.ok(error instanceof PlatformError);
      assert.deepEqual([error.code, error.details["pointer"]], [code, pointer]);
      assert.ok(Array.isArray(error.details["evidence"]));
      return true;
    });
  });
}

test("a package.json made to be slow does not hold up the detector", async () => {
  const nested = '"dependencies":{'.repeat(20_000);
  const text = JSON.stringify({ dependencies: { a: nested, b: "1.0.0" }, scripts: { start: "node a" } });
  assert.equal((await plan({ "package.json": text })).kind, "dynamic");
});
