import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { extract } from "tar-stream";
import { json, serve } from "@platform/sdk/testing";
import { packFolder } from "./app-folder.ts";
import { readManifest } from "./manifest.ts";

const main = join(import.meta.dirname, "main.ts");

function folderOf(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), "cli-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

interface Ran {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

async function cli(
  home: string,
  args: string[],
  options: { endpoint?: string; stdin?: string; env?: Record<string, string> } = {},
): Promise<Ran> {
  const child = spawn(process.execPath, [main, ...args], {
    cwd: home,
    env: {
      PATH: process.env["PATH"] ?? "",
      HOME: home,
      ...(options.endpoint ? { MIOSA_ENDPOINT: options.endpoint, MIOSA_API_KEY: "msk_u_test_key" } : {}),
      ...options.env,
    },
  });
  let out = "";
  let err = "";
  child.stdout.on("data", (chunk: Buffer) => (out += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (err += chunk.toString()));
  child.stdin.end(options.stdin ?? "");
  const code = await new Promise<number | null>((resolve) => child.once("close", resolve));
  return { code, out, err };
}

const tenant = { id: "t-1", name: "Clinic", slug: "clinic" };

test("login verifies the key, stores it for the owner only, and later commands use it", async (t) => {
  const home = folderOf(t);
  const { origin, received } = await serve(t, (request, response) =>
    json(response, 200, request.path.includes("tenants/current") ? { data: tenant } : { data: [] }),
  );
  const login = await cli(home, ["login", "--endpoint", `${origin}/api/v1`, "--key-stdin"], {
    stdin: "msk_u_secret_key\n",
  });
  assert.equal(login.code, 0, login.err);
  assert.match(login.out, /Clinic \(clinic\)/);
  const file = join(home, ".config", "miosa", "config.json");
  assert.equal(statSync(file).mode & 0o777, 0o600);
  assert.doesNotMatch(login.out + login.err, /secret_key/);

  const list = await cli(home, ["sandbox", "ls", "--json"]);
  assert.equal(list.code, 0, list.err);
  assert.deepEqual(JSON.parse(list.out), []);
  assert.equal(received.at(-1)?.headers.authorization, "Bearer msk_u_secret_key");
});

test("a refused key is not stored and exits 3", async (t) => {
  const home = folderOf(t);
  const { origin } = await serve(t, (_request, response) =>
    json(response, 401, { error: { code: "UNAUTHENTICATED", message: "Unknown key." } }),
  );
  const login = await cli(home, ["login", "--endpoint", origin, "--key-stdin"], { stdin: "msk_u_wrong" });
  assert.equal(login.code, 3);
  assert.match(login.err, /✗ UNAUTHENTICATED: Unknown key\./);
  assert.match(login.err, /request: req_1/);
  assert.throws(() => readFileSync(join(home, ".config", "miosa", "config.json")));
});

test("exit codes tell user, network, auth and server failures apart", async (t) => {
  const home = folderOf(t);
  let status = 404;
  const { origin } = await serve(t, (_request, response) =>
    json(
      response,
      status,
      { error: { code: `CODE_${status}`, message: "Because." } },
      { "retry-after": "0" },
    ),
  );
  const get = () => cli(home, ["deploy", "show", "x"], { endpoint: origin });
  assert.equal((await get()).code, 1);
  status = 403;
  assert.equal((await get()).code, 3);
  status = 500;
  assert.equal((await get()).code, 4);
  assert.equal((await cli(home, ["deploy", "ls"])).code, 3, "without any key");
  assert.equal((await cli(home, ["no-such-command"])).code, 1);
  assert.equal((await cli(home, ["--help"])).code, 0);
});

test("an endpoint that does not answer exits 2 and says what to do", async (t) => {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  const ran = await cli(folderOf(t), ["db", "ls"], { endpoint: `http://127.0.0.1:${port}` });
  assert.equal(ran.code, 2);
  assert.match(ran.err, /ECONNREFUSED/);
  assert.match(ran.err, /do: {2}/);
});

test("with --json an error is one JSON document on stdout", async (t) => {
  const { origin } = await serve(t, (_request, response) =>
    json(response, 422, {
      error: { code: "VALIDATION_FAILED", message: "No." },
      errors: { name: ["too long"] },
    }),
  );
  const ran = await cli(folderOf(t), ["db", "create", "x", "--json"], { endpoint: origin });
  assert.equal(ran.code, 1);
  const { error } = JSON.parse(ran.out) as { error: Record<string, unknown> };
  assert.equal(error["code"], "VALIDATION_FAILED");
  assert.deepEqual(error["why"], ["name: too long"]);
  assert.equal(error["request_id"], "req_1");
  assert.equal(ran.err, "");
});

test("exec streams both outputs and passes the command's exit code", async (t) => {
  const { origin, received } = await serve(t, (request, response) => {
    if (!request.path.endsWith("/exec/stream")) return json(response, 200, { id: "s-1" });
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.end(
      'event: stdout\ndata: {"line":"a"}\n\nevent: stderr\ndata: {"line":"b"}\n\nevent: exit\ndata: {"exit_code":7}\n\n',
    );
  });
  const ran = await cli(folderOf(t), ["sandbox", "exec", "web", "--", "npm", "test", "--silent"], {
    endpoint: origin,
  });
  assert.deepEqual(ran, { code: 7, out: "a\n", err: "b\n" });
  assert.equal(received[0]?.path, "/api/v1/sandboxes/by-name/web");
  assert.equal((received[1]?.body as { command: string }).command, "npm test --silent");
});

test("exec keeps each of several words one argument", async (t) => {
  const { origin, received } = await serve(t, (request, response) => {
    if (!request.path.endsWith("/exec/stream")) return json(response, 200, { id: "s-1" });
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.end('event: exit\ndata: {"exit_code":0}\n\n');
  });
  await cli(folderOf(t), ["sandbox", "exec", "web", "--", "sh", "-c", "echo 'a b'; exit 7"], {
    endpoint: origin,
  });
  assert.equal((received[1]?.body as { command: string }).command, `sh -c 'echo '\\''a b'\\''; exit 7'`);
});

test("with --json an unknown command is one JSON document too", async (t) => {
  const ran = await cli(folderOf(t), ["bogus", "--json"], {});
  assert.equal(ran.code, 1);
  assert.equal((JSON.parse(ran.out) as { error: { code: string } }).error.code, "USAGE");
  assert.equal(ran.err, "");
});

test("expose prints the server's URL and nothing else on stdout", async (t) => {
  const { origin } = await serve(t, (request, response) =>
    json(
      response,
      200,
      request.path.endsWith("/expose")
        ? { url: "http://3000-s.example:81", preview_id: "p", port: 3000 }
        : { id: "s" },
    ),
  );
  const ran = await cli(folderOf(t), ["sandbox", "expose", "s", "3000"], { endpoint: origin });
  assert.equal(ran.out, "http://3000-s.example:81\n");
});

test("a folder is published by sending what the server lacks of it, and remembers its deployment", async (t) => {
  const app = folderOf(t);
  writeFileSync(
    join(app, "miosa.app.yml"),
    "name: shop\nstart: node .\nport: 4000\nreadiness: {path: /up}\n",
  );
  writeFileSync(join(app, "index.js"), "");
  const calls: string[] = [];
  let refuses = false;
  const deployment = {
    id: "d-1",
    name: "shop",
    state: "running",
    active_release_id: "r-1",
    public_url: "http://shop.example",
  };
  const { origin, received } = await serve(t, (request, response) => {
    const path = request.path.replace("/api/v1", "");
    calls.push(`${request.method} ${path}`);
    if (path.endsWith("/uploads")) return json(response, 201, { data: { id: "u-1", missing: [0] } });
    if (path.endsWith("/chunks/0")) return json(response, 200, { data: { stored: true } });
    if (path.endsWith("/complete")) return json(response, 200, { data: { id: "u-1", missing: [] } });
    if (path.endsWith("/publish") && refuses)
      return json(response, 422, { error: { code: "PREFLIGHT_EXITED", message: "It exits." } });
    if (path.endsWith("/publish"))
      return json(response, 201, {
        data: { deployment, version: { id: "v" }, release: { id: "r-1", artifact_sha256: "ab" } },
      });
    json(response, 200, { data: deployment });
  });
  const first = await cli(app, ["publish"], { endpoint: origin });
  assert.equal(first.code, 0, first.err);
  assert.match(first.out, /^http:\/\/shop\.example\n/);
  const body = received.find((one) => one.path.endsWith("/publish"))?.body;
  assert.deepEqual(body, {
    source_upload_id: "u-1",
    run_command: "node .",
    port: 4000,
    health_check_path: "/up",
    promote: true,
  });
  assert.deepEqual(calls.slice(0, 5), [
    "POST /deployments",
    "POST /deployments/d-1/uploads",
    "PUT /deployments/d-1/uploads/u-1/chunks/0",
    "POST /deployments/d-1/uploads/u-1/complete",
    "POST /deployments/d-1/publish",
  ]);
  assert.equal(
    (JSON.parse(readFileSync(join(app, ".miosa.json"), "utf8")) as { deploymentId: string }).deploymentId,
    "d-1",
  );

  refuses = true;
  const second = await cli(app, ["publish"], { endpoint: origin });
  assert.equal(second.code, 1);
  assert.match(second.err, /PREFLIGHT_EXITED/);
  assert.equal(calls.filter((call) => call === "POST /deployments").length, 1);
});

test("a packed folder leaves out secrets, packages and what the manifest excludes", async (t) => {
  const app = folderOf(t);
  for (const path of [
    "src/a.js",
    ".env",
    ".env.local",
    "node_modules/x/i.js",
    "src/node_modules/y.js",
    "big/data.bin",
    "x.tmp",
    "README.md",
  ]) {
    mkdirSync(join(app, path, ".."), { recursive: true });
    writeFileSync(join(app, path), "content");
  }
  const { tar, files } = await packFolder(app, ["big/", "*.tmp"]);
  const names: string[] = [];
  const reader = extract();
  reader.on("entry", (header, stream, next) => {
    names.push(header.name);
    stream.on("end", next).resume();
  });
  await new Promise<void>((resolve) => reader.on("finish", () => resolve()).end(tar));
  assert.deepEqual(names, ["README.md", "src/a.js"]);
  assert.equal(files, 2);
});

test("a manifest's synonyms mean the same, and a wrong one is named", (t) => {
  const app = folderOf(t);
  const write = (text: string) => writeFileSync(join(app, "miosa.app.yaml"), text);
  write(
    "name: a\ninstall_command: x\nbuild_command: y\nrun: z\noutput_path: out\nresources: {database: {engine: postgresql}}",
  );
  const manifest = readManifest(app);
  assert.equal(manifest.install, "x");
  assert.equal(manifest.build, "y");
  assert.equal(manifest.start, "z");
  assert.equal(manifest.output, "out");
  assert.ok(manifest.wantsDatabase);
  write("schema_version: 2\nname: a");
  assert.throws(() => readManifest(app), { code: "MANIFEST_SCHEMA_UNSUPPORTED" });
  write("start: x");
  assert.throws(() => readManifest(app), { code: "MANIFEST_NAME_REQUIRED" });
  write("name: a\nport: many");
  assert.throws(() => readManifest(app), { code: "MANIFEST_INVALID", message: /port/ });
});

test("domains: the records to set, what is seen there, and why a verification failed", async (t) => {
  const home = folderOf(t);
  const domain = {
    id: "d-1",
    hostname: "shop.acme.example",
    state: "failed",
    dns_state: "pending",
    next_check_at: "2026-01-01T00:02:00Z",
    deployment_id: null,
    redirect_policy: "none",
    last_error: null,
    certificate: null,
    dns_records: [
      {
        type: "CNAME",
        name: "shop.acme.example",
        value: "abc.domains.x",
        found: ["old.example"],
        verdict: "differs",
      },
      { type: "TXT", name: "_verify.shop.acme.example", value: "123", found: [], verdict: "missing" },
    ],
  };
  const error = { code: "CNAME_MISMATCH", message: "shop.acme.example points to old.example.", details: {} };
  const { origin } = await serve(t, (request, response) =>
    request.path.endsWith("/verify")
      ? json(response, 422, { error })
      : json(response, 200, { data: request.path.includes("shop.acme") ? domain : [domain] }),
  );
  const status = await cli(home, ["domains", "status", "shop.acme.example"], { endpoint: origin });
  assert.match(status.out, /TYPE +NAME +SET TO +SEEN NOW +VERDICT/);
  assert.match(status.out, /CNAME +shop\.acme\.example +abc\.domains\.x +old\.example +differs/);
  const list = await cli(home, ["domains", "list"], { endpoint: origin });
  assert.match(list.out, /shop\.acme\.example +failed +pending/);
  const verify = await cli(home, ["domains", "verify", "shop.acme.example"], { endpoint: origin });
  assert.equal(verify.code, 1);
  assert.match(verify.err, /CNAME_MISMATCH/);
  assert.match(verify.err, /old\.example/);
});

test("certificates: state, reason and next try in one line", async (t) => {
  const home = folderOf(t);
  const certificate = {
    id: "c-1",
    name: "shop.acme.example",
    names: ["shop.acme.example"],
    source: "managed",
    state: "failed",
    issuer: null,
    not_after: null,
    renews_at: null,
    next_try_at: "2026-01-01T01:00:00Z",
    last_error: { reason: "rate_limited", message: "Too many.", next_step: "Nothing." },
  };
  const { origin } = await serve(t, (request, response) =>
    json(response, 200, { data: request.path.includes("shop") ? certificate : [certificate] }),
  );
  const list = await cli(home, ["certificates"], { endpoint: origin });
  assert.match(list.out, /c-1 +shop\.acme\.example +managed +failed +- +rate_limited/);
  const show = await cli(home, ["certificates", "show", "shop.acme.example"], { endpoint: origin });
  assert.match(show.out, /failed; rate_limited: Too many\. Next try 2026-01-01T01:00:00Z/);
});
