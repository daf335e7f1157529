import { z } from "zod";
import { EnvMap, NoBody, queryInt } from "./fields.ts";
import { defineRoute } from "./route.ts";
import { ServiceInput } from "./sandboxes.ts";

const Cwd = z.string().max(4096).optional();
export const ExecInput = z.object({
  command: z
    .string()
    .min(1)
    .max(1024 * 1024)
    .describe("Shell command"),
  cwd: Cwd,
  dir: Cwd,
  env: EnvMap.optional(),
  timeout: z.coerce.number().positive().optional().describe("Seconds, at most 86400; standard 30"),
  wait: z.boolean().optional(),
  wait_timeout_ms: z.coerce.number().int().optional(),
});
export const ExecResult = z.object({
  stdout: z.string(),
  stderr: z.string(),
  exit_code: z.int(),
  duration_ms: z.number(),
  timed_out: z.boolean(),
  stdout_truncated: z.boolean().optional(),
  stderr_truncated: z.boolean().optional(),
  oom: z
    .object({
      kills: z.int().describe("Processes of the sandbox that the kernel killed while the command ran"),
      memory_limit_bytes: z.number().nullable(),
      memory_peak_bytes: z.number().nullable(),
    })
    .optional()
    .describe("Only when the kernel's own counter rose while a command that failed ran"),
});

const tag = "Exec and files";
const sandbox = "/sandboxes/:id";
const run = { tag, scope: "sandboxes:exec" } as const;
const files = { tag, scope: "sandboxes:read" } as const;
const filesWrite = { tag, scope: "sandboxes:write" } as const;
const PathQuery = z.object({ path: z.string().default("/workspace"), depth: queryInt(1, 20, 1) });

export const execRoutes = {
  exec: defineRoute({
    id: "exec",
    method: "POST",
    path: `${sandbox}/exec`,
    summary: "Run a command and wait",
    ...run,
    envelope: "data",
    body: ExecInput,
    response: ExecResult,
    problems: ["SANDBOX_STARTING", "TIMEOUT_TOO_LONG"],
  }),
  execStream: defineRoute({
    id: "execStream",
    method: "POST",
    path: `${sandbox}/exec/stream`,
    summary: "Run a command; output as server-sent events, ends with exit",
    ...run,
    envelope: "raw",
    body: ExecInput,
    stream: true,
  }),
  command: defineRoute({
    id: "createCommand",
    method: "POST",
    path: `${sandbox}/commands`,
    summary: "Run a durable (or, with timeout_seconds or stdin, a synchronous) command",
    ...run,
    envelope: "data",
    status: 201,
    body: z.object({
      command: z
        .string()
        .min(1)
        .max(1024 * 1024),
      cwd: Cwd,
      env: EnvMap.optional(),
      user: z.string().optional(),
      sudo: z.boolean().optional(),
      tty: z.boolean().optional(),
      interactive: z.boolean().optional(),
      timeout: z.coerce.number().positive().optional(),
      timeout_seconds: z.coerce.number().int().min(1).max(600).optional(),
      stdin: z
        .string()
        .max(32 * 1024)
        .optional(),
    }),
  }),
  commandList: defineRoute({
    id: "listCommands",
    method: "GET",
    path: `${sandbox}/commands`,
    summary: "Durable commands",
    ...files,
    envelope: "data",
  }),
  commandGet: defineRoute({
    id: "getCommand",
    method: "GET",
    path: `${sandbox}/commands/:cid`,
    summary: "A durable command",
    ...files,
    envelope: "data",
  }),
  commandLogs: defineRoute({
    id: "getCommandLogs",
    method: "GET",
    path: `${sandbox}/commands/:cid/logs`,
    summary: "Its output",
    ...files,
    envelope: "data",
    query: z.object({ tail: queryInt(1, 10_000, 200) }),
  }),
  commandKill: defineRoute({
    id: "killCommand",
    method: "POST",
    path: `${sandbox}/commands/:cid/kill`,
    summary: "End it",
    ...run,
    envelope: "data",
    body: NoBody,
  }),

  processCreate: defineRoute({
    id: "createProcess",
    method: "POST",
    path: `${sandbox}/processes`,
    summary: "Start a process",
    ...run,
    envelope: "data",
    status: 201,
    body: z.object({
      command: z.string().min(1),
      cwd: Cwd,
      env: EnvMap.optional(),
      timeout: z.coerce.number().optional(),
      name: z.string().optional(),
      sudo: z.boolean().optional(),
    }),
  }),
  processList: defineRoute({
    id: "listProcesses",
    method: "GET",
    path: `${sandbox}/processes`,
    summary: "Processes and services",
    ...files,
    envelope: "data",
  }),
  processGet: defineRoute({
    id: "getProcess",
    method: "GET",
    path: `${sandbox}/processes/:pid`,
    summary: "A process, by id or pid",
    ...files,
    envelope: "data",
  }),
  processKill: defineRoute({
    id: "killProcess",
    method: "DELETE",
    path: `${sandbox}/processes/:pid`,
    summary: "Stop a process or service",
    ...run,
    envelope: "data",
  }),
  processStdin: defineRoute({
    id: "writeStdin",
    method: "POST",
    path: `${sandbox}/processes/:pid/stdin`,
    summary: "Write to its standard input",
    ...run,
    envelope: "data",
    body: z.object({ data: z.string() }),
  }),
  processSignal: defineRoute({
    id: "signalProcess",
    method: "POST",
    path: `${sandbox}/processes/:pid/signal`,
    summary: "Send a signal",
    ...run,
    envelope: "data",
    body: z.object({ signal: z.string().default("SIGTERM") }),
  }),
  processLogs: defineRoute({
    id: "getProcessLogs",
    method: "GET",
    path: `${sandbox}/processes/:pid/logs`,
    summary: "Its output",
    ...files,
    envelope: "data",
    query: z.object({ tail: queryInt(1, 10_000, 200) }),
  }),
  processStream: defineRoute({
    id: "streamProcess",
    method: "GET",
    path: `${sandbox}/processes/:pid/stream`,
    summary: "Follow its output; ends with exit",
    ...files,
    envelope: "raw",
    stream: true,
    query: z.looseObject({}),
  }),

  serviceList: defineRoute({
    id: "listServices",
    method: "GET",
    path: `${sandbox}/services`,
    summary: "Services",
    ...files,
    envelope: "data",
  }),
  serviceCreate: defineRoute({
    id: "createService",
    method: "POST",
    path: `${sandbox}/services`,
    summary: "Start a named service",
    ...run,
    envelope: "data",
    status: 201,
    body: ServiceInput,
  }),
  serviceGet: defineRoute({
    id: "getService",
    method: "GET",
    path: `${sandbox}/services/:name`,
    summary: "A service",
    ...files,
    envelope: "data",
  }),
  serviceRestart: defineRoute({
    id: "restartService",
    method: "POST",
    path: `${sandbox}/services/:name/restart`,
    summary: "Restart a service",
    ...run,
    envelope: "data",
    body: NoBody,
  }),
  serviceLogs: defineRoute({
    id: "getServiceLogs",
    method: "GET",
    path: `${sandbox}/services/:name/logs`,
    summary: "Its output",
    ...files,
    envelope: "data",
    query: z.object({ tail: queryInt(1, 10_000, 100) }),
  }),
} as const;

const Content = z.object({ path: z.string().min(1).max(4096), content: z.string() });
const FilesBase64 = z.object({
  files: z.array(z.object({ path: z.string().min(1), content_base64: z.string() })).max(5000),
});
const WrittenFiles = z.object({
  written: z.array(z.object({ path: z.string(), size_bytes: z.int() })),
  failed: z.array(z.object({ path: z.string(), error: z.string() })),
});
const FileEntry = z.looseObject({
  name: z.string(),
  path: z.string(),
  size: z.int(),
  is_dir: z.boolean(),
  mode: z.int().optional(),
  modified_at: z.string().nullable(),
});
export const fileRoutes = {
  write: defineRoute({
    id: "writeFile",
    method: "POST",
    path: `${sandbox}/files`,
    summary: "Write a file (base64)",
    ...filesWrite,
    envelope: "data",
    status: 201,
    body: Content,
  }),
  list: defineRoute({
    id: "listFiles",
    method: "GET",
    path: `${sandbox}/files`,
    summary: "List a folder",
    ...files,
    envelope: "data",
    query: PathQuery,
  }),
  read: defineRoute({
    id: "readFile",
    method: "GET",
    path: `${sandbox}/files/read`,
    summary: "Read a file as text",
    ...files,
    envelope: "data",
    query: z.object({ path: z.string().min(1) }),
  }),
  stat: defineRoute({
    id: "statFile",
    method: "POST",
    path: `${sandbox}/files/stat`,
    summary: "What a path is",
    ...files,
    envelope: "data",
    body: z.object({ path: z.string().min(1) }),
    response: FileEntry,
  }),
  tree: defineRoute({
    id: "fileTree",
    method: "GET",
    path: `${sandbox}/files/tree`,
    summary: "A folder's tree",
    ...files,
    envelope: "data",
    query: z.object({ path: z.string().default("/workspace"), depth: queryInt(1, 20, 3) }),
  }),
  writeMany: defineRoute({
    id: "writeFiles",
    method: "POST",
    path: `${sandbox}/files/write-many`,
    summary: "Write several files",
    ...filesWrite,
    envelope: "data",
    body: FilesBase64,
    response: WrittenFiles,
  }),
  batch: defineRoute({
    id: "writeFileBatch",
    method: "POST",
    path: `${sandbox}/files/batch`,
    summary: "Write several files",
    ...filesWrite,
    envelope: "data",
    body: z.object({ files: z.array(Content).max(5000) }),
    response: WrittenFiles,
  }),
  watch: defineRoute({
    id: "watchFiles",
    method: "GET",
    path: `${sandbox}/files/watch`,
    summary: "Changes below a folder as server-sent events",
    ...files,
    envelope: "raw",
    stream: true,
    query: z.object({ path: z.string().default("/workspace"), ticket: z.string().optional() }),
  }),
  download: defineRoute({
    id: "downloadFile",
    method: "GET",
    path: `${sandbox}/files/*`,
    summary: "A file's bytes",
    ...files,
    envelope: "raw",
  }),
  upload: defineRoute({
    id: "uploadFile",
    method: "PUT",
    path: `${sandbox}/files/*`,
    summary: "Replace a file by the bytes of the body, of any size",
    ...filesWrite,
    bytes: true,
    envelope: "data",
  }),
  remove: defineRoute({
    id: "deleteFile",
    method: "DELETE",
    path: `${sandbox}/files/*`,
    summary: "Remove a file or folder",
    ...filesWrite,
    envelope: "data",
  }),
  fsRead: defineRoute({
    id: "fsRead",
    method: "GET",
    path: `${sandbox}/fs/read`,
    summary: "Read a file as text",
    ...files,
    envelope: "top",
    query: z.object({ path: z.string().min(1) }),
  }),
  fsWrite: defineRoute({
    id: "fsWrite",
    method: "POST",
    path: `${sandbox}/fs/write`,
    summary: "Write a text file",
    ...filesWrite,
    envelope: "top",
    status: 201,
    body: z
      .object({
        path: z.string().min(1).max(4096),
        content: z.string().optional(),
        content_base64: z.string().optional(),
      })
      .refine((body) => body.content !== undefined || body.content_base64 !== undefined, {
        path: ["content"],
        message: "is missing; send content (text) or content_base64",
      }),
  }),
  fsWriteMany: defineRoute({
    id: "fsWriteMany",
    method: "POST",
    path: `${sandbox}/fs/write-many`,
    summary: "Write several files",
    ...filesWrite,
    envelope: "data",
    body: FilesBase64,
    response: WrittenFiles,
  }),
  fsStat: defineRoute({
    id: "fsStat",
    method: "POST",
    path: `${sandbox}/fs/stat`,
    summary: "What a path is",
    ...files,
    envelope: "data",
    body: z.object({ path: z.string().min(1) }),
    response: FileEntry,
  }),
  fsDownload: defineRoute({
    id: "fsDownload",
    method: "GET",
    path: `${sandbox}/fs/download`,
    summary: "A file's bytes",
    ...files,
    envelope: "raw",
    query: z.object({ path: z.string().min(1) }),
  }),
  fsMkdir: defineRoute({
    id: "fsMkdir",
    method: "POST",
    path: `${sandbox}/fs/mkdir`,
    summary: "Make a folder",
    ...filesWrite,
    envelope: "top",
    body: z.object({ path: z.string().min(1), recursive: z.boolean().optional() }),
  }),
  fsList: defineRoute({
    id: "fsList",
    method: "GET",
    path: `${sandbox}/fs`,
    summary: "List a folder",
    ...files,
    envelope: "top",
    query: z.object({ path: z.string().default("/workspace") }),
  }),
  fsRemove: defineRoute({
    id: "fsRemove",
    method: "DELETE",
    path: `${sandbox}/fs`,
    summary: "Remove a file or folder",
    ...filesWrite,
    envelope: "top",
    query: z.object({ path: z.string().optional() }),
    body: z.object({ path: z.string().optional() }).optional(),
  }),
} as const;
