#!/usr/bin/env node
// Runs the program with the repository's own Node, which npm start brings; the machine's may be too old.
import { spawn } from "node:child_process";
import { existsSync, realpathSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(realpathSync(fileURLToPath(import.meta.url)));
const own = join(here, "..", "..", "..", ".toolchain", "node", "bin", "node");
const node = existsSync(own) ? own : process.execPath;
const child = spawn(node, [join(here, "..", "src", "main.ts"), ...process.argv.slice(2)], {
  stdio: "inherit",
});
process.on("SIGINT", () => process.stdin.isTTY || child.kill("SIGINT"));
process.on("SIGTERM", () => child.kill("SIGTERM"));
child.on("exit", (code, signal) => process.exit(code ?? (signal ? 128 : 1)));
