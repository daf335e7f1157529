import { problems, type ProblemCode } from "./problems.ts";

/** What a refused publish or promote means, for people and for programs that repair apps. */
export interface Refusal {
  readonly when: string;
  readonly todo: string;
  /** What `details.patch` holds where the repair is known. */
  readonly patch?: string;
  /** Members of `details` beyond `step`, `pointer`, `evidence`, `log_tail` and `build_id`. */
  readonly details?: string;
}

const publishing = {
  SOURCE_EMPTY: {
    when: "The sandbox, or the folder that the manifest names, holds no files.",
    todo: "Write the app's files below /workspace, or correct workdir in the manifest.",
  },
  SOURCE_INVALID: {
    when: "What was uploaded is no tar, is cut off, or holds names that leave its folder.",
    todo: "Upload an uncompressed tar of the app's folder.",
  },
  SYMLINK_ESCAPES: {
    when: "A symbolic link is absolute or leads out of the app's folder, where no release can follow.",
    todo: "Make the link relative and inside the folder, replace it by a copy, or remove it.",
    patch: "removes the link",
  },
  MANIFEST_INVALID: {
    when: "The app manifest is no YAML, or one of its fields has a value that cannot be.",
    todo: "Correct the field that `pointer` names.",
    patch: "JSON patch of the manifest",
  },
  PACKAGE_JSON_INVALID: {
    when: "package.json is not valid JSON.",
    todo: "Correct the line in `evidence`.",
    patch: "the whole file, where it only has a comma too many",
  },
  PYPROJECT_INVALID: { when: "pyproject.toml is not valid TOML.", todo: "Correct the line in `evidence`." },
  PACKAGE_MANAGER_UNAVAILABLE: {
    when: "The app's packages are listed for a package manager that is not offered, such as Pipenv.",
    todo: "List them for npm, pnpm, Yarn, Bun, pip, uv or Poetry.",
  },
  FRAMEWORK_ADAPTER_MISSING: {
    when: "The framework builds for one platform at a time, and its adapter for Node.js servers or static files is not among the dependencies.",
    todo: "Use the adapter for Node.js or for static files.",
    patch: "the dependency and the import in the configuration",
  },
  LOCKFILE_OUT_OF_DATE: {
    when: "The install refuses, since the lockfile lists other dependencies than the app asks for.",
    todo: "Run the package manager's install in the sandbox, or remove the lockfile.",
    patch: "removes the lockfile",
    details: "`file`",
  },
  DEPENDENCY_CONFLICT: {
    when: "Two packages ask for versions of a third that exclude each other.",
    todo: "Change one of the versions in `evidence`.",
    patch: "an install command that goes past the conflict",
  },
  DEPENDENCY_NOT_FOUND: {
    when: "The registry has no package of this name, or not in this version.",
    todo: "Correct the name or the version.",
    patch: "the newest version, if only the version does not exist",
    details: "`missing`",
  },
  DEPENDENCY_MISSING: {
    when: "A file imports, or a command is, of a package that is not among the dependencies. It may have worked in the sandbox, where it was installed by hand.",
    todo: "Add the package to package.json or requirements.txt.",
    patch: "the dependency with its newest version",
    details: "`missing`",
  },
  SCRIPT_MISSING: {
    when: "A command runs a script that package.json does not have.",
    todo: "Add the script, or change the command.",
    patch: "a build command that does nothing",
    details: "`script`",
  },
  SOURCE_FILE_MISSING: {
    when: "A file that the app imports or reads is not in the release: its name differs in small and capital letters, it is outside of /workspace, where only the sandbox has it, or it is one that no release holds, such as .env.",
    todo: "Write the file among the app's own, or correct its name where it is imported.",
    details: "`missing_file`",
  },
  START_FILE_MISSING: {
    when: "The start command runs a file that is not in the release.",
    todo: "Correct the start script, or see why the build does not write the file.",
    patch: "a start script with a file that is there",
    details: "`missing_file`",
  },
  MODULE_FORMAT: {
    when: "Files are ES modules where package.json says CommonJS, or the other way round.",
    todo: "Set `type` in package.json, or use the endings .mjs and .cjs.",
    patch: "`type` in package.json",
  },
  INSTALL_FAILED: {
    when: "Installing the dependencies failed for a reason that the log shows.",
    todo: "Read `details.log_tail`. If it is the registry, try again.",
    details: "`command`, `exit_code`",
  },
  BUILD_FAILED: {
    when: "The build of an app with a server ended with an error.",
    todo: "Read `evidence`; run the same command in the sandbox.",
    details: "`command`, `exit_code`",
  },
  STATIC_BUILD_FAILED: {
    when: "The build of static files ended with an error.",
    todo: "Read `evidence`; run the same command in the sandbox.",
    details: "`command`, `exit_code`",
  },
  BUILD_TIMEOUT: {
    when: "Install or build ran past its limit, 15 and 20 minutes unless the operator set another one.",
    todo: "Look for a command that never ends, such as a development server or a question at a prompt.",
    details: "`command`",
  },
  BUILD_OUT_OF_MEMORY: {
    when: "The kernel ended a process of the build for memory. Told by its own counter, never by an exit code.",
    todo: "Build with less in parallel, or lower what the build loads.",
    details: "`limit_bytes`, `peak_bytes`, `process` (by the kernel's log; null where it cannot be read)",
  },
  STATIC_OUTPUT_NOT_FOUND: {
    when: "None of the folders that were looked in has an index.html.",
    todo: "Set output_path to the folder that the build writes, or publish as dynamic.",
    patch: "output_path, where another folder has a page",
    details: "`output_path`, `looked_in`",
  },
  START_COMMAND_MISSING: {
    when: "The app is no set of files to serve, and nothing says how its server starts.",
    todo: "Add a start script to package.json, a Procfile, or send run_command.",
    patch: "a start command with a file that makes a server",
    details: "`looked_in`",
  },
  SECRET_IN_ARTIFACT: {
    when: "A file of the release holds the value of a run-time variable or the password of a database, plain or encoded (base64, base64url, URL, JSON, HTML, hex, UTF-16), also inside .gz, .br and .zst files. Values under 8 characters are not looked for, nor those of public names such as VITE_*, nor plain words and addresses under names that do not tell of a secret; archives such as .zip are not opened.",
    todo: "Read the value from the environment when the app runs.",
    patch: "removes the file, if it is no source",
    details: "`findings` with `file`, `line`, `name`, `encoding`",
  },
  REQUIRED_ENV_MISSING: {
    when: "The manifest requires, or the app asks at its start for, a variable that is not set; or it ends at its start and reads a variable that only the sandbox has.",
    todo: "Send it in `env` of the publish, or set it on the deployment.",
    patch: "`env` of the request, with `needs_value`",
    details: "`missing`",
  },
  PREFLIGHT_NOT_LISTENING: {
    when: "Away from the sandbox, nothing listens on the port 60 s after the start.",
    todo: "Listen on PORT, or send the port that the app listens on.",
    patch: "`port` of the request, where the app listens on another one",
    details: "`port`, `seen`",
  },
  PREFLIGHT_BOUND_TO_LOOPBACK: {
    when: "The app listens on 127.0.0.1, where nobody else reaches it.",
    todo: "Listen on 0.0.0.0, or on HOST, which is set to it.",
    patch: "the line, or the start command, with 0.0.0.0",
    details: "`port`, `seen`",
  },
  PREFLIGHT_EXITED: {
    when: "Away from the sandbox the app ends at its start, for a reason that its log shows.",
    todo: "Read `evidence`.",
    details: "`start_command`",
  },
  PREFLIGHT_UNHEALTHY: {
    when: "The health path answers with 500 or more, or not at all.",
    todo: "Read `evidence`; a database may lack its tables, as a publish runs no migration.",
    details: "`http_status`, `health_check_path`",
  },
  PREFLIGHT_SERVICE_UNREACHABLE: {
    when: "The app connects at its start to a database or another service that runs in the sandbox, or whose name is only known there.",
    todo: "Link a database and connect to DATABASE_URL; give other services' addresses as variables.",
    patch: "`database` of the request, where the service is PostgreSQL and the app reads DATABASE_URL",
    details: "`service`",
  },
  PREFLIGHT_OUT_OF_MEMORY: {
    when: "The kernel ended the app for memory at its start.",
    todo: "Lower what the app loads at its start.",
    details: "`limit_bytes`, `peak_bytes`, `process` (by the kernel's log; null where it cannot be read)",
  },
  DIGEST_MISMATCH: {
    when: "Uploaded bytes do not have the digest that was stated for them.",
    todo: "Send the chunk again; if it stays so, the file changed while it was read.",
  },
} as const satisfies Partial<Record<ProblemCode, Refusal>>;

export const refusals: Readonly<Partial<Record<ProblemCode, Refusal>>> = publishing;
export type RefusalCode = keyof typeof publishing;
export const refusalCodes = Object.keys(publishing) as RefusalCode[];

/** The page of one refusal, as it is in docs/problems. */
export function refusalPage(code: RefusalCode): string {
  const { when, todo, patch, details }: Refusal = publishing[code];
  const { status, title } = problems[code];
  return `# ${title}

\`${code}\`, status ${status}. Written from packages/contract/src/refusals.ts.

${when}

**What to do:** ${todo}

**Machine patch** (\`details.patch\`): ${patch ?? "none"}.
${details ? `\n**In \`details\`, besides the usual:** ${details}.\n` : ""}`;
}
