import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { readFileSync } from "node:fs";
import { test, type TestContext } from "node:test";
import { Ajv } from "ajv";
import addFormats from "ajv-formats";
import { diffSboms, parseInstalled, renderSbom } from "./index.ts";

/** The schema as its authors publish it, with the two that it names. */
function publishedSchema() {
  const folder = join(
    dirname(createRequire(import.meta.url).resolve("@cyclonedx/cyclonedx-library/package.json")),
    "res/schema",
  );
  const read = (name: string) =>
    JSON.parse(readFileSync(join(folder, `${name}.SNAPSHOT.schema.json`), "utf8")) as Record<string, unknown>;
  const ajv = new Ajv({ strict: false, allErrors: true });
  addFormats.default(ajv);
  // Formats of a later draft, which only fields that are not written here use.
  for (const name of ["idn-email", "iri-reference"]) ajv.addFormat(name, true);
  for (const name of ["spdx", "jsf-0.82"])
    ajv.addSchema(read(name), `http://cyclonedx.org/schema/${name}.SNAPSHOT.schema.json`);
  return ajv.compile(read("bom-1.6"));
}

async function appWith(t: TestContext, files: Readonly<Record<string, string>>): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "sbom-"));
  t.after(() => rm(folder, { recursive: true, force: true }));
  for (const [path, text] of Object.entries(files)) {
    await mkdir(dirname(join(folder, path)), { recursive: true });
    await writeFile(join(folder, path), text);
  }
  return folder;
}

/** As a build's box runs it. */
function listed(folder: string) {
  const script = readFileSync(join(import.meta.dirname, "list-packages.mjs"));
  const text = execFileSync(process.execPath, ["--input-type=module", "-"], { cwd: folder, input: script });
  return parseInstalled(text.toString())!;
}

const json = (value: object) => JSON.stringify(value);
const nodeApp = {
  "package.json": json({ name: "shop", version: "1.2.0", dependencies: { express: "5", "@scope/ui": "1" } }),
  "node_modules/.package-lock.json": json({
    packages: { "node_modules/express": { integrity: `sha512-${Buffer.alloc(64, 7).toString("base64")}` } },
  }),
  "node_modules/express/package.json": json({
    ...{ name: "express", version: "5.1.0", license: "MIT", dependencies: { ms: "2" } },
  }),
  "node_modules/express/node_modules/ms/package.json": json({ name: "ms", version: "2.0.0" }),
  "node_modules/@scope/ui/package.json": json({
    name: "@scope/ui",
    version: "1.0.0",
    dependencies: { ms: "3" },
  }),
  "node_modules/ms/package.json": json({ name: "ms", version: "3.0.0", license: "MIT" }),
  "node_modules/.bin/ms": "",
  "node_modules/broken/package.json": "{",
};
const pythonApp = {
  ".python/Flask-3.1.0.dist-info/METADATA":
    "Metadata-Version: 2.4\nName: Flask\nVersion: 3.1.0\nLicense-Expression: BSD-3-Clause\nRequires-Dist: Werkzeug>=3\nRequires-Dist: python-dotenv; extra == 'dotenv'\n\nbody\nName: other\n",
  ".python/werkzeug-3.1.3.dist-info/METADATA": "Metadata-Version: 2.4\nName: Werkzeug\nVersion: 3.1.3\n\n",
  ".python/werkzeug-3.1.3.dist-info/RECORD": "a,sha256=x,1\n",
};

type Bom = {
  components: { purl: string; hashes?: object[]; licenses?: object[] }[];
  dependencies: { ref: string; dependsOn?: string[] }[];
};

test("the bill of materials lists npm and Python packages with what each needs, and keeps to its schema", async (t) => {
  const installed = listed(await appWith(t, { ...nodeApp, ...pythonApp }));
  const bom = JSON.parse(renderSbom(installed)) as Bom;
  const isValid = publishedSchema();
  assert.ok(isValid(bom), JSON.stringify(isValid.errors?.slice(0, 3)));
  assert.deepEqual(bom.components.map((one) => one.purl).sort(), [
    "pkg:npm/%40scope/ui@1.0.0",
    "pkg:npm/express@5.1.0",
    "pkg:npm/ms@2.0.0",
    "pkg:npm/ms@3.0.0",
    "pkg:pypi/flask@3.1.0",
    "pkg:pypi/werkzeug@3.1.3",
  ]);
  const needs = new Map(bom.dependencies.map(({ ref, dependsOn }) => [ref, dependsOn ?? []]));
  // Each npm package gets the one that Node.js would give it.
  assert.deepEqual(needs.get("pkg:npm/express@5.1.0"), ["pkg:npm/ms@2.0.0"]);
  assert.deepEqual(needs.get("pkg:npm/%40scope/ui@1.0.0"), ["pkg:npm/ms@3.0.0"]);
  assert.deepEqual(needs.get("pkg:pypi/flask@3.1.0"), ["pkg:pypi/werkzeug@3.1.3"]);
  assert.deepEqual(needs.get("app")?.toSorted(), [
    "pkg:npm/%40scope/ui@1.0.0",
    "pkg:npm/express@5.1.0",
    "pkg:pypi/flask@3.1.0",
  ]);
  const express = bom.components.find(({ purl }) => purl.includes("express"))!;
  assert.deepEqual(express.hashes, [{ alg: "SHA-512", content: "07".repeat(64) }]);
  assert.deepEqual(express.licenses, [{ license: { name: "MIT" } }]);
});

test("the schema in use refuses what is none of it", () => {
  assert.ok(!publishedSchema()({ bomFormat: "CycloneDX", specVersion: "1.6", components: [{ name: "x" }] }));
});

test("the same packages give the same text; a list that was cut off gives none", async (t) => {
  const [one, two] = [
    await appWith(t, nodeApp),
    await appWith(t, Object.fromEntries(Object.entries(nodeApp).reverse())),
  ];
  assert.equal(renderSbom(listed(one)), renderSbom(listed(two)));
  assert.equal(parseInstalled('{"type":"app","name":"a","version":null,"needs":[]}\n'), null);
  assert.equal(parseInstalled(""), null);
});

test("packages that pnpm keeps behind links are found once, where they really are", async (t) => {
  const folder = await appWith(t, {
    "package.json": json({ name: "app", dependencies: { koa: "3" } }),
    "node_modules/.pnpm/koa@3.0.0/node_modules/koa/package.json": json({
      ...{ name: "koa", version: "3.0.0", dependencies: { ms: "2" } },
    }),
    "node_modules/.pnpm/koa@3.0.0/node_modules/ms/package.json": json({ name: "ms", version: "2.1.3" }),
  });
  const bom = JSON.parse(renderSbom(listed(folder))) as Bom;
  const needs = new Map(bom.dependencies.map(({ ref, dependsOn }) => [ref, dependsOn ?? []]));
  assert.deepEqual(needs.get("app"), ["pkg:npm/koa@3.0.0"]);
  assert.deepEqual(needs.get("pkg:npm/koa@3.0.0"), ["pkg:npm/ms@2.1.3"]);
});

test("a difference names each package with its versions", () => {
  const bom = (...purls: string[]) => ({
    components: purls.map((purl) => ({ purl, version: purl.split("@").at(-1)! })),
  });
  assert.deepEqual(
    diffSboms(
      bom("pkg:npm/a@1", "pkg:npm/b@1", "pkg:npm/c@1"),
      bom("pkg:npm/a@1", "pkg:npm/b@2", "pkg:npm/%40d/e@1"),
    ),
    [
      { name: "npm/@d/e", from: null, to: "1" },
      { name: "npm/b", from: "1", to: "2" },
      { name: "npm/c", from: "1", to: null },
    ],
  );
});
