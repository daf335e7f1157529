import { z } from "zod";
import { EnvMap, NoBody } from "./fields.ts";
import { defineRoute } from "./route.ts";

const tag = "Exec and files";
const sandbox = "/sandboxes/:id";
const Path = z.string().min(1).max(4096);
const Paths = z.union([Path.transform((one) => [one]), z.array(Path).min(1).max(100)]);
const Filename = z
  .string()
  .regex(/^[\w][\w .()+@-]{0,199}$/, "letters, digits and . _ - + @ ( ) space; no folder")
  .describe("Ends in .tar.gz, .tgz or .tar; standard .tar.gz");

export const Export = z.object({
  id: z.uuid(),
  sandbox_id: z.uuid(),
  status: z.literal("ready"),
  label: z.string().nullable(),
  filename: z.string(),
  files: z.array(z.object({ path: z.string(), filename: z.string(), download_url: z.string() })),
  archive_download_url: z.string(),
  created_at: z.string(),
});

/** Ways in and out of a sandbox that are not one command or one file. */
export const sandboxAccessRoutes = {
  exportCreate: defineRoute({
    id: "createExport",
    method: "POST",
    path: `${sandbox}/exports`,
    summary: "Name files and folders to be downloaded; the URLs take the same key as this call",
    tag,
    envelope: "data",
    status: 201,
    scope: "sandboxes:read",
    body: z
      .object({
        path: Path.optional(),
        paths: z.array(Path).min(1).max(100).optional(),
        label: z.string().max(200).optional(),
        filename: Filename.optional(),
      })
      .refine((body) => (body.path === undefined) !== (body.paths === undefined), {
        path: ["path"],
        message: "send either path or paths",
      }),
    response: Export,
    idempotent: true,
    problems: ["FILE_NOT_FOUND", "INVALID_PATH"],
  }),
  exportDownload: defineRoute({
    id: "downloadExport",
    method: "GET",
    path: `${sandbox}/exports/download`,
    summary: "A tar or tar.gz of files and folders, streamed",
    tag,
    envelope: "raw",
    scope: "sandboxes:read",
    stream: true,
    query: z.looseObject({
      path: Path.optional(),
      paths: Paths.optional(),
      "paths[]": Paths.optional(),
      filename: Filename.optional(),
    }),
    problems: ["FILE_NOT_FOUND", "INVALID_PATH"],
  }),
  artifacts: defineRoute({
    id: "listArtifacts",
    method: "GET",
    path: `${sandbox}/artifacts`,
    summary: "What was made out of the sandbox: exports, snapshots, releases",
    tag,
    envelope: "data",
    scope: "sandboxes:read",
    response: z.array(
      z.object({
        id: z.uuid(),
        type: z.enum(["export", "snapshot", "release"]),
        label: z.string().nullable(),
        size_bytes: z.number().nullable(),
        download_url: z.string().nullable(),
        created_at: z.string(),
      }),
    ),
  }),
  terminalCreate: defineRoute({
    id: "createTerminal",
    method: "POST",
    path: `${sandbox}/terminal`,
    summary: "A shell on a terminal that outlives its connections",
    tag: "Terminal",
    envelope: "data",
    status: 201,
    scope: "sandboxes:exec",
    body: z
      .object({
        cols: z.coerce.number().int().min(1).max(1000).default(80),
        rows: z.coerce.number().int().min(1).max(1000).default(24),
        shell: z.string().startsWith("/").max(200).optional(),
        cwd: z.string().max(4096).optional(),
        env: EnvMap.default({}),
      })
      .prefault({}),
    response: z.object({ id: z.string(), url: z.string(), pid: z.int() }),
    problems: ["SANDBOX_STARTING"],
  }),
  terminalDelete: defineRoute({
    id: "deleteTerminal",
    method: "DELETE",
    path: `${sandbox}/terminal/:sid`,
    summary: "End the shell and what runs in it",
    tag: "Terminal",
    envelope: "data",
    scope: "sandboxes:exec",
  }),
  terminalSocket: defineRoute({
    id: "openTerminal",
    method: "GET",
    path: `${sandbox}/terminal/:sid`,
    summary: "WebSocket to a terminal; frames as of the interactive exec",
    tag: "Terminal",
    envelope: "raw",
    scope: "sandboxes:exec",
    stream: true,
    websocket: true,
    problems: ["UPGRADE_REQUIRED", "PROCESS_NOT_FOUND"],
  }),
  execSocket: defineRoute({
    id: "openExec",
    method: "GET",
    path: `${sandbox}/exec`,
    summary: "WebSocket to one command: frames of a type byte and a payload",
    tag: "Terminal",
    envelope: "raw",
    scope: "sandboxes:exec",
    stream: true,
    websocket: true,
    query: z.looseObject({
      command: z.string().min(1).max(65_536).optional(),
      args: z.union([z.string(), z.array(z.string()).max(1000)]).optional(),
      tty: z.string().optional(),
      rows: z.coerce.number().int().min(1).max(1000).default(24),
      cols: z.coerce.number().int().min(1).max(1000).default(80),
      cwd: z.string().max(4096).optional(),
      env: z.union([z.string(), z.array(z.string()).max(500)]).optional(),
    }),
    problems: ["UPGRADE_REQUIRED"],
  }),
  tunnel: defineRoute({
    id: "openTunnel",
    method: "GET",
    path: `${sandbox}/tunnel/:port`,
    summary: "WebSocket whose binary frames are the bytes of a TCP connection to a port",
    tag: "Terminal",
    envelope: "raw",
    scope: "sandboxes:exec",
    stream: true,
    websocket: true,
    problems: ["UPGRADE_REQUIRED", "PORT_NOT_REACHABLE"],
  }),
  sshTunnel: defineRoute({
    id: "openSshTunnel",
    method: "GET",
    path: `${sandbox}/ssh-tunnel`,
    summary: "The same to the sandbox's SSH server",
    tag: "Terminal",
    envelope: "raw",
    scope: "sandboxes:exec",
    stream: true,
    websocket: true,
    problems: ["UPGRADE_REQUIRED", "SSH_UNAVAILABLE"],
  }),
  sshInfo: defineRoute({
    id: "getSshInfo",
    method: "GET",
    path: `${sandbox}/ssh-info`,
    summary: "Whether and how SSH reaches the sandbox",
    tag: "Terminal",
    envelope: "top",
    scope: "sandboxes:read",
  }),
  sshKeys: defineRoute({
    id: "addSshKey",
    method: "POST",
    path: `${sandbox}/ssh-keys`,
    summary: "Let a public key in; answered with 204",
    tag: "Terminal",
    envelope: "raw",
    scope: "sandboxes:exec",
    body: z.object({
      public_key: z
        .string()
        .trim()
        .max(16_384)
        .regex(
          /^(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-[\w@.-]+) [A-Za-z0-9+/=]+( [^\r\n]*)?$/,
          "is one line of an OpenSSH public key",
        ),
      certificate: z.boolean().optional(),
      ttl_seconds: z.coerce.number().int().min(1).max(86_400).optional(),
    }),
    problems: ["SSH_UNAVAILABLE"],
  }),
  sshCertificates: defineRoute({
    id: "createSshCertificate",
    method: "POST",
    path: `${sandbox}/ssh-certificates`,
    summary: "A short-lived certificate for a public key",
    tag: "Terminal",
    envelope: "data",
    scope: "sandboxes:exec",
    body: NoBody,
    problems: ["SSH_UNAVAILABLE"],
  }),
} as const;
