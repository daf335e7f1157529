import { PlatformError } from "@platform/contract";
import type { Detected } from "./detected.ts";

interface ManifestFault {
  readonly pointer: string;
  readonly message: string;
  readonly line?: number;
  /** What would be right. */
  readonly value?: unknown;
  readonly cause?: unknown;
}

export function manifestProblem(file: { name: string; text: string }, fault: ManifestFault): PlatformError {
  const field = fault.pointer.split("/").at(-1)!;
  const lines = file.text.split("\n");
  const found = fault.line ?? lines.findIndex((line) => field !== "" && line.includes(field)) + 1;
  const patch =
    fault.pointer === ""
      ? null
      : fault.value === undefined
        ? { op: "remove", path: fault.pointer }
        : { op: "replace", path: fault.pointer, value: fault.value };
  return new PlatformError(
    "MANIFEST_INVALID",
    `${file.name}: ${field === "" ? "" : `${field}: `}${fault.message}. Correct it and publish again.`,
    {
      details: {
        step: "plan",
        file: file.name,
        pointer: fault.pointer,
        ...(field === "schema_version" ? { code: "MANIFEST_SCHEMA_UNSUPPORTED" } : {}),
        evidence:
          found > 0 ? [`${file.name}:${found}: ${(lines[found - 1] ?? "").trim().slice(0, 200)}`] : [],
        ...(patch ? { patch: [{ type: "json-patch", file: file.name, operations: [patch] }] } : {}),
      },
      cause: fault.cause,
    },
  );
}

/** @param hasPage files that can be sent as they are: a patch asks for that */
export function startMissing(detected: Detected, hasPage: boolean): PlatformError {
  const candidate = detected.candidates[0];
  const python = candidate?.endsWith(".py");
  const patch = candidate
    ? python
      ? [
          {
            type: "request",
            operations: [{ op: "add", path: "/run_command", value: `python3 ${candidate}` }],
          },
        ]
      : [
          {
            type: "json-patch",
            file: "package.json",
            operations: [{ op: "add", path: "/scripts/start", value: `node ${candidate}` }],
          },
        ]
    : hasPage
      ? // Asked to be a server, but there are only files to send.
        [{ type: "request", operations: [{ op: "replace", path: "/deployment_type", value: "static" }] }]
      : undefined;
  return new PlatformError(
    "START_COMMAND_MISSING",
    `No start command is known. Send run_command, or add a start script to package.json, or start: to the app manifest.${candidate ? ` ${candidate} looks like the server.` : ""}`,
    {
      details: {
        step: "plan",
        pointer: "/run_command",
        looked_in: [
          "run_command",
          "miosa.app.yml",
          "package.json scripts.start",
          "Procfile",
          "Dockerfile",
          "server.js",
          "main.py",
          "app.py",
        ],
        evidence: [...detected.because, "no file was found that starts a server"],
        ...(patch ? { patch } : {}),
      },
      errors: { run_command: ["is missing"] },
    },
  );
}
