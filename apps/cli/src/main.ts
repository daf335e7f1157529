#!/usr/bin/env node
import { dirname, join } from "node:path";
import { clearInheritedPostgresSettings } from "@platform/daemon";
import { run } from "./program.ts";

// A reader that goes away (| head) is no fault of ours.
process.stdout.on("error", (error: NodeJS.ErrnoException) => process.exit(error.code === "EPIPE" ? 0 : 1));
clearInheritedPostgresSettings();
process.exitCode = await run({
  arguments: process.argv.slice(2),
  environment: process.env,
  streams: process,
  stdin: process.stdin,
  cwd: process.cwd(),
  repository: join(dirname(import.meta.dirname), "..", ".."),
});
