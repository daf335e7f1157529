// `npm start`: brings Node, packages and system packages, then runs the main job with that Node.
// Runs on Node 20 without any package.
import { spawn } from "node:child_process";
import { existsSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { ensureGvisorRuntime } from "./gvisor-runtime.mjs";
import { ensurePostgresClient } from "./postgres-client.mjs";
import { ensureSystemPackages } from "./system-packages.mjs";
import { ensurePackages, ensureToolchain, root } from "./toolchain.mjs";

const usage = `npm start -- [options]
  --exit        end after the proof, with 0 or 1, and leave nothing behind
  --app DIR     prove the main path with this app instead of examples/clinic-intake
  --serve       serve only, without the proof
  --port N      with --serve: port of the gateway
  --data DIR    data folder (standard: .data)
`;

const say = (text) => process.stderr.write(`${text}\n`);

function refuse(message) {
  say(`✗ ${message}\n\n${usage}`);
  process.exit(1);
}

function readArguments() {
  let values;
  try {
    ({ values } = parseArgs({
      options: {
        exit: { type: "boolean", default: false },
        serve: { type: "boolean", default: false },
        help: { type: "boolean", default: false },
        app: { type: "string" },
        port: { type: "string" },
        data: { type: "string" },
      },
    }));
  } catch (error) {
    refuse(error.message);
  }
  if (values.help) {
    process.stdout.write(usage);
    process.exit(0);
  }
  if (values.serve && (values.exit || values.app)) refuse("--serve excludes --exit and --app.");
  if (values.port !== undefined) {
    if (!values.serve) refuse("--port needs --serve.");
    if (!/^\d{1,5}$/.test(values.port) || Number(values.port) < 1 || Number(values.port) > 65_535) {
      refuse(`"${values.port}" is no port: give a number from 1 to 65535.`);
    }
  }
  if (values.app !== undefined) {
    const folder = resolve(values.app);
    if (!existsSync(folder) || !statSync(folder).isDirectory()) refuse(`${folder} is no folder.`);
  }
  return values;
}

const values = readArguments();
const args = ["main-job"];
if (values.exit) args.push("--exit");
if (values.serve) args.push("--serve");
if (values.app !== undefined) args.push("--app", resolve(values.app));
if (values.port !== undefined) args.push("--port", values.port);
if (values.data !== undefined) args.push("--data", resolve(values.data));

let node;
try {
  node = ensureToolchain();
  ensurePackages();
  const missing = ensureSystemPackages({ path: process.env.PATH, isRoot: process.getuid?.() === 0, say });
  if (missing.length > 0) process.exit(1);
  ensureGvisorRuntime({ path: process.env.PATH, say });
  ensurePostgresClient({ path: process.env.PATH, say });
} catch (error) {
  say(`✗ set-up failed: ${error.message}`);
  say("  do:  Check that this machine reaches its package registry, then run it again.");
  process.exit(1);
}

const child = spawn(node, [join(root, "apps", "cli", "src", "main.ts"), ...args], { stdio: "inherit" });
// A terminal sends Ctrl-C to the whole group, so the child already has it; a second one would cut its clean-up short.
process.on("SIGINT", () => process.stdin.isTTY || child.kill("SIGINT"));
process.on("SIGTERM", () => child.kill("SIGTERM"));
child.on("exit", (code, signal) => process.exit(code ?? (signal ? 128 : 1)));
