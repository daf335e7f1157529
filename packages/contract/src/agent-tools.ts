import { z } from "zod";
import { queryInt } from "./fields.ts";
import { defineRoute } from "./route.ts";

const tag = "Agent tools";
const sandbox = "/sandboxes/:id";
const read = { tag, envelope: "data", scope: "sandboxes:read" } as const;
const write = { tag, envelope: "data", scope: "sandboxes:write" } as const;
const Folder = z.string().min(1).max(4096).default("/workspace");
const Globs = z.array(z.string().min(1).max(500)).max(50).default([]);

const Language = z.enum(["python", "javascript", "typescript", "bash"]);
const ContextName = z.string().regex(/^[\w.-]{1,64}$/, "has 1 to 64 letters, digits, ., _ and -");

const Pattern = z.object({
  pattern: z.string().min(1).max(10_000),
  regex: z.boolean().default(false).describe("false: the pattern is plain text"),
  case_sensitive: z.boolean().default(true),
  path: Folder,
  include: Globs.describe("Only these files, such as src/**/*.ts or *.md"),
  exclude: Globs,
  hidden: z
    .boolean()
    .default(false)
    .describe("Also look in .git, node_modules, dist and other folders that tools made"),
});

export const agentToolRoutes = {
  search: defineRoute({
    id: "searchFiles",
    method: "POST",
    path: `${sandbox}/search`,
    summary: "Find text in files",
    ...read,
    body: Pattern.extend({
      max_results: z.coerce.number().int().min(1).max(5000).default(200),
      context: z.coerce.number().int().min(0).max(20).default(0).describe("Lines before and after"),
    }),
    response: z.object({
      matches: z.array(
        z.object({
          path: z.string(),
          line: z.int(),
          column: z.int(),
          text: z.string(),
          before: z.array(z.string()),
          after: z.array(z.string()),
        }),
      ),
      count: z.int(),
      files_searched: z.int(),
      files_skipped: z.int().describe("Binary, over 4 MiB, or not readable"),
      truncated: z.boolean(),
    }),
    problems: ["VALIDATION_FAILED", "FILE_NOT_FOUND"],
  }),
  replace: defineRoute({
    id: "replaceInFiles",
    method: "POST",
    path: `${sandbox}/replace`,
    summary: "Replace text in files; all of them or, when the count is another one than expected, none",
    ...write,
    body: Pattern.extend({
      replacement: z
        .string()
        .max(1024 * 1024)
        .describe("With regex, $1 and $<name> stand for groups"),
      dry_run: z.boolean().default(false),
      expected_count: z.coerce.number().int().min(0).optional(),
    }),
    response: z.object({
      files: z.array(z.object({ path: z.string(), count: z.int() })),
      count: z.int(),
      dry_run: z.boolean(),
    }),
    problems: ["VALIDATION_FAILED", "FILE_NOT_FOUND", "COUNT_MISMATCH"],
  }),
  patch: defineRoute({
    id: "applyPatch",
    method: "POST",
    path: `${sandbox}/patch`,
    summary: "Apply a unified diff; all of it or nothing",
    ...write,
    body: z.object({
      patch: z
        .string()
        .min(1)
        .max(8 * 1024 * 1024),
      path: Folder.describe("Folder that the names in the patch are below"),
      dry_run: z.boolean().default(false),
      fuzz: z.coerce.number().int().min(0).max(3).default(0).describe("Context lines that may differ"),
    }),
    response: z.object({
      files: z.array(
        z.object({
          path: z.string(),
          action: z.enum(["created", "modified", "deleted", "renamed"]),
          hunks: z.int(),
        }),
      ),
      dry_run: z.boolean(),
    }),
    problems: ["VALIDATION_FAILED", "PATCH_REJECTED", "INVALID_PATH"],
  }),
  codeRun: defineRoute({
    id: "runCode",
    method: "POST",
    path: `${sandbox}/code/run`,
    summary: "Run a cell of code; what it defines, the next cells of its context know",
    ...write,
    body: z.object({
      code: z.string().max(1024 * 1024),
      language: Language.default("python"),
      context: ContextName.default("default"),
      timeout: z.coerce
        .number()
        .int()
        .min(1)
        .max(3600)
        .default(60)
        .describe("Seconds; then it is interrupted"),
      env: z.record(z.string(), z.string()).default({}).describe("For this cell alone"),
    }),
    response: z.looseObject({
      ok: z.boolean(),
      stdout: z.string(),
      stderr: z.string(),
      result: z.string().nullable().describe("Text of the last expression's value"),
      results: z
        .array(z.looseObject({ is_main_result: z.boolean() }))
        .describe("With formats such as html and png"),
      error: z.object({ name: z.string(), value: z.string(), traceback: z.string() }).nullable(),
      language: z.string(),
      context: z.string(),
      timed_out: z.boolean(),
      truncated: z.boolean().describe("Output or results were longer than is kept"),
    }),
    problems: ["VALIDATION_FAILED"],
  }),
  codeContexts: defineRoute({
    id: "listCodeContexts",
    method: "GET",
    path: `${sandbox}/code/contexts`,
    summary: "Contexts in which code ran",
    ...read,
    query: z.object({ language: Language.optional() }),
    response: z.looseObject({ contexts: z.array(z.string()) }),
  }),
  codeForget: defineRoute({
    id: "removeCodeContext",
    method: "DELETE",
    path: `${sandbox}/code/contexts/:context`,
    summary: "Forget what a context knows and end what runs in it",
    ...write,
    query: z.object({ language: Language.default("python") }),
  }),
  codeReset: defineRoute({
    id: "resetCode",
    method: "DELETE",
    path: `${sandbox}/code`,
    summary: "Forget all contexts, or those of one language",
    ...write,
    query: z.object({ language: Language.optional() }),
  }),
  gitStatus: defineRoute({
    id: "gitStatus",
    method: "GET",
    path: `${sandbox}/git/status`,
    summary: "Branch and changed files",
    ...read,
    query: z.object({ path: Folder }),
    problems: ["GIT_FAILED"],
  }),
  gitDiff: defineRoute({
    id: "gitDiff",
    method: "GET",
    path: `${sandbox}/git/diff`,
    summary: "Changes as a unified diff",
    ...read,
    query: z.object({
      path: Folder,
      staged: z.string().optional(),
      ref: z.string().max(200).optional().describe("Compare with this commit or branch"),
    }),
    problems: ["GIT_FAILED"],
  }),
  gitLog: defineRoute({
    id: "gitLog",
    method: "GET",
    path: `${sandbox}/git/log`,
    summary: "Commits, newest first",
    ...read,
    query: z.object({ path: Folder, limit: queryInt(1, 500, 20) }),
    problems: ["GIT_FAILED"],
  }),
  gitBranches: defineRoute({
    id: "gitBranches",
    method: "GET",
    path: `${sandbox}/git/branches`,
    summary: "Branches",
    ...read,
    query: z.object({ path: Folder }),
    problems: ["GIT_FAILED"],
  }),
  gitBranch: defineRoute({
    id: "gitBranch",
    method: "POST",
    path: `${sandbox}/git/branch`,
    summary: "Switch to a branch, made first where it is not there",
    ...write,
    body: z.object({ path: Folder, name: z.string().min(1).max(200), from: z.string().max(200).optional() }),
    problems: ["GIT_FAILED"],
  }),
  gitCommit: defineRoute({
    id: "gitCommit",
    method: "POST",
    path: `${sandbox}/git/commit`,
    summary: "Commit changes; makes the repository where there is none",
    ...write,
    body: z.object({
      path: Folder,
      message: z.string().trim().min(1).max(10_000),
      paths: z
        .array(z.string().min(1).max(4096))
        .max(1000)
        .optional()
        .describe("Only these; standard: all changes"),
      author_name: z.string().max(200).default("Agent"),
      author_email: z.string().max(200).default("agent@localhost"),
    }),
    problems: ["GIT_FAILED"],
  }),
  gitClone: defineRoute({
    id: "gitClone",
    method: "POST",
    path: `${sandbox}/git/clone`,
    summary: "Clone a repository",
    ...write,
    body: z.object({
      url: z
        .string()
        .max(4096)
        .regex(/^(https?|git|ssh|file):\/\/|^[\w.-]+@[\w.-]+:/, "is an https, ssh or git URL"),
      path: Folder,
      branch: z.string().max(200).optional(),
      depth: z.coerce.number().int().min(1).max(100_000).optional(),
    }),
    problems: ["GIT_FAILED"],
  }),
} as const;
