// `node scripts/run.mjs FILE ARGS`: runs FILE with the repository's own Node, after set-up.
import { spawn } from "node:child_process";
import { ensurePackages, ensureToolchain } from "./toolchain.mjs";

const node = ensureToolchain();
ensurePackages();
const child = spawn(node, process.argv.slice(2), { stdio: "inherit" });
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => child.kill(signal));
child.on("exit", (code, signal) => process.exit(code ?? (signal ? 128 : 1)));
