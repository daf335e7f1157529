import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { Findings } from "@platform/brand-scan";
import { json, serve } from "@platform/sdk/testing";

const build = join(import.meta.dirname, "..", "..", "..", "scripts", "build-cli.ts");

function run(file: string, args: string[], env: Record<string, string>, cwd: string, stdin = "") {
  const child = spawn(process.execPath, [file, ...args], {
    cwd,
    env: { PATH: process.env["PATH"] ?? "", ...env },
  });
  let [out, err] = ["", ""];
  child.stdout.setEncoding("utf8").on("data", (text: string) => (out += text));
  child.stderr.setEncoding("utf8").on("data", (text: string) => (err += text));
  child.stdin.end(stdin);
  return new Promise<{ code: number | null; out: string; err: string }>((resolve) =>
    child.once("close", (code) => resolve({ code, out, err })),
  );
}

const folderOf = (t: TestContext): string => {
  const folder = mkdtempSync(join(tmpdir(), "tenant-cli-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
};

const manifest = `name: Builder Bay
command: bay
env_prefix: BUILDER_BAY
config_folder: builder-bay
color: "#b91c1c"
api_url: https://api.builderbay.example
help_url: https://builderbay.example/docs
support_url: https://builderbay.example/help
`;

test("a manifest makes the command line a tenant's own: its name alone in help, errors, folders and in the file", async (t) => {
  const home = folderOf(t);
  writeFileSync(join(home, "bay.yml"), manifest);
  const file = join(home, "bay.mjs");
  const built = await run(build, [join(home, "bay.yml"), "--out", file], {}, home);
  assert.equal(built.code, 0, built.err);
  const findings = new Findings();
  findings.program("bay.mjs", readFileSync(file, "utf8"));
  const bay = async (args: string[], env: Record<string, string> = {}, stdin = "") => {
    const ran = await run(file, args, { HOME: home, ...env }, home, stdin);
    findings.text(`bay ${args.join(" ")}`, "output", ran.out + ran.err);
    return ran;
  };

  const help = await bay(["--help"]);
  assert.equal(help.code, 0, help.err);
  assert.match(help.out, /^Usage: bay .*\n\nBuilder Bay: /);
  assert.match(help.out, /Help: https:\/\/builderbay\.example\/docs/);
  assert.doesNotMatch(help.out, /^ {2}(?:up|images|brand)\b/m, "what operators do is no part of it");
  assert.equal((await bay(["--version"])).out, "1.0.0\n");
  const commands = [...help.out.matchAll(/^ {2}([a-z]+) /gm)].map(([, name]) => name!);
  for (const command of commands) assert.equal((await bay([command, "--help"])).code, 0, command);
  const none = await bay(["sandbox", "ls"]);
  assert.equal(none.code, 3);
  assert.match(none.err, /`bay login`, or set BUILDER_BAY_ENDPOINT and BUILDER_BAY_API_KEY/);
  await bay(["no-such-command"]);
  await bay(["doctor"]);
  await bay(["publish", join(home, "nothing")], { BUILDER_BAY_API_KEY: "msk_u_x" });

  let status = 200;
  const { origin, received } = await serve(t, (request, response) =>
    request.path.includes("tenants/current")
      ? json(response, 200, { data: { id: "t", name: "Builder Bay", slug: "builder-bay" } })
      : status === 200
        ? json(response, 200, { data: [] })
        : json(response, status, { error: { code: "INTERNAL", message: "No." } }, { "retry-after": "0" }),
  );
  const login = await bay(["login", "--endpoint", origin, "--key-stdin"], {}, "msk_u_secret_key");
  assert.equal(login.code, 0, login.err);
  assert.ok(existsSync(join(home, ".config", "builder-bay", "config.json")));
  assert.equal((await bay(["sandbox", "ls", "--json"])).out, "[]\n");
  assert.match(String(received.at(-1)?.headers["user-agent"]), /^bay-cli/);
  status = 500;
  const failed = await bay(["db", "ls"], {
    BUILDER_BAY_ENDPOINT: origin,
    BUILDER_BAY_API_KEY: "msk_u_other_key",
  });
  assert.equal(failed.code, 4);
  assert.match(failed.err, /report it at https:\/\/builderbay\.example\/help with the request id/);
  assert.equal(received.at(-1)?.headers.authorization, "Bearer msk_u_other_key");
  for (const [name, value] of Object.entries(received.at(-1)!.headers))
    findings.header("what it sends", name, String(value));
  assert.deepEqual(findings.all, []);
});

test("a manifest with a fault is refused with the name of its field", async (t) => {
  const home = folderOf(t);
  writeFileSync(
    join(home, "bad.yml"),
    "name: X\ncommand: Not A Command\nhelp_url: http://x.example\ncolour: red\n",
  );
  const { code, err } = await run(build, [join(home, "bad.yml")], {}, home);
  assert.equal(code, 1);
  assert.match(err, /command: lower case letters/);
  assert.match(err, /help_url/);
  assert.match(err, /colour/);
});
