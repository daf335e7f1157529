import { posix } from "node:path";
import type { ProblemCode, ProblemPatch } from "@platform/contract";
import type { GuestClient } from "@platform/guest-protocol";
import type { Plan } from "./detect/index.ts";
import { newestNode, newestPython, packageOfImport } from "./versions.ts";

/** What a log says beyond "it failed". */
export interface Diagnosis {
  readonly code: ProblemCode;
  readonly message: string;
  readonly pointer: string;
  readonly evidence: readonly string[];
  readonly patch?: readonly ProblemPatch[];
  readonly facts?: Readonly<Record<string, unknown>>;
}

interface Failure {
  readonly guest: GuestClient;
  readonly plan: Plan;
  /** The command's last lines, masked. */
  readonly lines: readonly string[];
  /** Whether the packages are for the build only. */
  readonly isBuild: boolean;
}

type Rule = (failure: Failure) => Promise<Diagnosis | null>;

const escapePointer = (name: string) => name.replaceAll("~", "~0").replaceAll("/", "~1");
const isPython = ({ packageManager, start }: Plan) =>
  ["pip", "uv", "poetry"].includes(packageManager ?? "") || /\bpython3?\b/.test(start ?? "");

function find(lines: readonly string[], pattern: RegExp): { line: string; groups: string[] } | null {
  for (const line of lines) {
    const match = pattern.exec(line);
    if (match)
      return {
        line: line.trim().slice(0, 300),
        groups: match.slice(1).filter((group) => group !== undefined),
      };
  }
  return null;
}

const lockfiles: Readonly<Record<string, string>> = {
  ...{
    npm: "package-lock.json",
    pnpm: "pnpm-lock.yaml",
    yarn: "yarn.lock",
    bun: "bun.lock",
    uv: "uv.lock",
    poetry: "poetry.lock",
  },
};

const outOfDate: Rule = async ({ lines, plan }) => {
  const seen = find(
    lines,
    /can only install packages when your package\.json and|ERR_PNPM_OUTDATED_LOCKFILE|lockfile needs to be updated|lockfile would have been (?:modified|created)|lockfile had changes, but lockfile is frozen|pyproject\.toml changed significantly/,
  );
  if (!seen) return null;
  const file = lockfiles[plan.packageManager ?? "npm"] ?? "package-lock.json";
  return {
    code: "LOCKFILE_OUT_OF_DATE",
    message: `${file} does not agree with the dependencies that are asked for. Run the package manager's install in the sandbox, which writes it again, or remove it; then publish again.`,
    pointer: "",
    evidence: [seen.line],
    patch: [{ type: "remove", file }],
    facts: { file },
  };
};

const conflict: Rule = async ({ lines }) => {
  if (!find(lines, /\bERESOLVE\b/)) return null;
  const evidence = lines.filter((line) => /peer |Found:|Conflicting|While resolving/.test(line)).slice(0, 6);
  return {
    code: "DEPENDENCY_CONFLICT",
    message:
      "Two packages ask for versions that exclude each other. Change one of the versions in package.json, or install with --legacy-peer-deps.",
    pointer: "/dependencies",
    evidence,
    patch: [
      {
        type: "request",
        operations: [
          {
            op: "add",
            path: "/install_command",
            value: "npm install --legacy-peer-deps --no-audit --no-fund",
          },
        ],
      },
    ],
  };
};

const noSuchNode: Rule = async ({ lines, guest }) => {
  const version = find(lines, /No matching version found for (@?[^@\s]+)@([^\s]+?)\.?(?:\s|$)/);
  const name = find(
    lines,
    /'?(@?[^@\s'"]+)@[^\s']*'? is not in (?:this|the npm) registry|404 Not Found - GET https?:\/\/[^/]+\/(\S+?)(?: |$)/,
  );
  const seen = version ?? name;
  if (!seen) return null;
  const wanted = decodeURIComponent(seen.groups[0]!);
  const newest = version ? await newestNode(guest, wanted) : null;
  return {
    code: "DEPENDENCY_NOT_FOUND",
    message: `The registry has no ${wanted}${version ? `@${version.groups[1]}` : ""}.${newest ? ` The newest is ${newest.version}.` : " Correct its name in package.json, or remove it."}`,
    pointer: `/dependencies/${escapePointer(wanted)}`,
    evidence: [seen.line],
    ...(newest
      ? {
          patch: [
            {
              type: "json-patch",
              file: "package.json",
              operations: [
                {
                  op: "replace",
                  path: `/dependencies/${escapePointer(wanted)}`,
                  value: `^${newest.version}`,
                },
              ],
            },
          ] satisfies ProblemPatch[],
        }
      : {}),
    facts: { missing: wanted },
  };
};

const noSuchPython: Rule = async ({ lines, guest }) => {
  const seen = find(lines, /satisfies the requirement ([\w.[\]-]+)([^\s;(]*)/);
  if (!seen) return null;
  const [name, wanted = ""] = seen.groups as [string, string?];
  const newest = await newestPython(guest, name);
  return {
    code: "DEPENDENCY_NOT_FOUND",
    message: `The registry has no ${name}${wanted}.${newest ? ` The newest is ${newest.version}.` : " Correct its name, or remove it."}`,
    pointer: "",
    evidence: [seen.line],
    ...(newest
      ? {
          patch: [
            {
              type: "edit",
              file: "requirements.txt",
              find: `${name}${wanted}`,
              replace: `${name}==${newest.version}`,
            },
          ] satisfies ProblemPatch[],
        }
      : {}),
    facts: { missing: name },
  };
};

const missingScript: Rule = async ({ lines, plan }) => {
  const seen = find(lines, /Missing script: "?([^"\s]+)"?/);
  if (!seen) return null;
  return {
    code: "SCRIPT_MISSING",
    message: `package.json has no script "${seen.groups[0]}". Add it, or change the command that calls it (${plan.build ?? plan.start ?? ""}).`,
    pointer: `/scripts/${escapePointer(seen.groups[0]!)}`,
    evidence: [seen.line],
    patch: [{ type: "request", operations: [{ op: "add", path: "/build_command", value: "true" }] }],
    facts: { script: seen.groups[0] },
  };
};

const importFailures = [
  /Cannot find (?:module|package) '([^']+)'/,
  /Failed to resolve import "([^"]+)"/,
  /failed to resolve import "([^"]+)"/,
  /Can't resolve '([^']+)'/,
  /Could not resolve "([^"]+)"/,
  /(?:sh|bash): (?:line )?\d+: (?:exec: )?([\w./@-]+): not found/,
  /(?:sh|bash): (?:line \d+: )?([\w./@-]+): command not found/,
  /exec: ([\w./@-]+): not found/,
];

const missingNode: Rule = async ({ lines, guest, plan, isBuild }) => {
  const seen = importFailures.map((pattern) => find(lines, pattern)).find((one) => one !== null);
  const wanted = seen?.groups[0];
  if (!seen || !wanted) return null;
  const evidence = [seen.line];
  if (/^[./]|^\\/.test(wanted) || wanted.startsWith("node:"))
    return missingFile(guest, plan, wanted, evidence);
  if (isPython(plan)) return pythonDependency(guest, wanted, evidence);
  const newest = await newestNode(guest, wanted);
  const name = newest?.name ?? packageOfImport(wanted);
  const field = isBuild ? "devDependencies" : "dependencies";
  return {
    code: "DEPENDENCY_MISSING",
    message: `The app needs "${name}", which is not among its dependencies.${newest ? ` Add it to package.json, such as "${name}": "^${newest.version}".` : " Add it to package.json, or correct the name."}`,
    pointer: `/${field}/${escapePointer(name)}`,
    evidence,
    facts: { missing: name },
    ...(newest
      ? {
          patch: [
            {
              type: "json-patch",
              file: "package.json",
              operations: [
                { op: "add", path: `/${field}/${escapePointer(name)}`, value: `^${newest.version}` },
              ],
            },
            // An old lockfile would refuse the new package.
            ...(plan.packageManager && lockfiles[plan.packageManager]
              ? [{ type: "remove" as const, file: lockfiles[plan.packageManager]! }]
              : []),
          ] satisfies ProblemPatch[],
        }
      : {}),
  };
};

const missingPython: Rule = async ({ lines, guest }) => {
  const seen = find(lines, /No module named '?([\w.]+)'?/);
  return seen ? pythonDependency(guest, seen.groups[0]!, [seen.line]) : null;
};

async function pythonDependency(guest: GuestClient, wanted: string, evidence: string[]): Promise<Diagnosis> {
  const newest = await newestPython(guest, wanted);
  const name = newest?.name ?? wanted;
  return {
    code: "DEPENDENCY_MISSING",
    message: `The app needs "${name}", which is not among its dependencies. Add it to requirements.txt${newest ? ` as ${name}==${newest.version}` : ", or correct the name"}.`,
    pointer: "",
    evidence,
    facts: { missing: name },
    ...(newest
      ? {
          patch: [
            { type: "append", file: "requirements.txt", text: `${name}==${newest.version}\n` },
          ] satisfies ProblemPatch[],
        }
      : {}),
  };
}

/** The name as the file has it, written into the file that imports it; `undefined` when there is no such pair. */
async function inOtherLetters(
  guest: GuestClient,
  wanted: string,
  evidence: readonly string[],
): Promise<ProblemPatch[] | undefined> {
  const importer = evidence
    .map((line) => /imported from (\/workspace\/\S+?)['"]?$/.exec(line)?.[1])
    .find((found) => found !== undefined);
  if (!importer || !wanted.startsWith("/workspace/")) return undefined;
  const { dir, base } = posix.parse(wanted);
  const listed = await guest.exec('ls -1 -- "$FOLDER"', {
    ...{ cwd: "/workspace", timeoutMs: 20_000, env: { FOLDER: dir } },
  });
  const names = listed.stdout.split("\n").filter((name) => name.toLowerCase() === base.toLowerCase());
  if (names.length !== 1) return undefined;
  const file = importer.slice("/workspace/".length);
  return [{ type: "edit", file, find: base, replace: names[0]! }];
}

/** A file of the app's own that is not in the release; often it is there under a name in other letters. */
async function missingFile(
  guest: GuestClient,
  plan: Plan,
  wanted: string,
  evidence: string[],
): Promise<Diagnosis> {
  const isStart =
    wanted.startsWith("/workspace/") && (plan.start ?? "").includes(wanted.slice("/workspace/".length));
  const candidates = await guest.exec(
    "ls -1 server.js index.js app.js main.js server.mjs index.mjs app.mjs src/server.js src/index.js src/app.js dist/index.js dist/main.js dist/server.js build/index.js 2>/dev/null | head -3",
    { cwd: "/workspace", timeoutMs: 20_000 },
  );
  const other = candidates.stdout.split("\n")[0];
  const file = wanted.replace(/^\/workspace\//, "");
  const renamed = isStart ? undefined : await inOtherLetters(guest, wanted, evidence);
  const patch: ProblemPatch[] | undefined =
    isStart && other
      ? [
          {
            type: "json-patch",
            file: "package.json",
            operations: [{ op: "add", path: "/scripts/start", value: `node ${other}` }],
          },
        ]
      : renamed;
  return {
    code: isStart ? "START_FILE_MISSING" : "SOURCE_FILE_MISSING",
    message: `${file} is not in the release.${isStart && other ? ` There is ${other}.` : ""} Write it, correct the name (small and capital letters differ), or see why the build does not make it.`,
    pointer: isStart ? "/scripts/start" : "",
    evidence,
    facts: { missing_file: file },
    ...(patch ? { patch } : {}),
  };
}

const moduleFormat: Rule = async ({ lines }) => {
  const esm = find(lines, /Cannot use import statement outside a module|Unexpected token 'export'/);
  const cjs = find(lines, /(?:require|module|exports|__dirname) is not defined in ES module scope/);
  const seen = esm ?? cjs;
  if (!seen) return null;
  const type = esm ? "module" : "commonjs";
  return {
    code: "MODULE_FORMAT",
    message: `The files are ${esm ? "ES modules" : "CommonJS"}, and package.json says otherwise. Set "type": "${type}" in it, or give the files the ending ${esm ? ".mjs" : ".cjs"}.`,
    pointer: "/type",
    evidence: [seen.line],
    patch: [
      { type: "json-patch", file: "package.json", operations: [{ op: "add", path: "/type", value: type }] },
    ],
  };
};

const missingEnv: Rule = async ({ lines }) => {
  const seen = find(
    lines,
    /(?:KeyError: '([A-Z][A-Z0-9_]{2,})')|\b([A-Z][A-Z0-9]*_[A-Z0-9_]*|[A-Z]{4,}) (?:is not set|is not defined$|is required|is missing|must be set|not found in env)|(?:[Mm]issing|[Rr]equires?|[Uu]ndefined|[Nn]eeds?)(?: the)?(?: required)?(?: env(?:ironment)?)?(?: var(?:iable)?s?)?:? ['"`]?([A-Z][A-Z0-9]*_[A-Z0-9_]+)/,
  );
  const name = seen?.groups[0];
  if (!seen || !name || (/^(ERR|E[A-Z]+)_?/.test(name) && !name.startsWith("ENV"))) return null;
  return {
    code: "REQUIRED_ENV_MISSING",
    message: `The app needs the variable ${name}, which is not set. Send it as env.${name} with the publish, or set it on the deployment, and publish again.`,
    pointer: `/env/${name}`,
    evidence: [seen.line],
    facts: { missing: [name] },
    patch: [
      { type: "request", operations: [{ op: "add", path: `/env/${name}`, value: "" }], needs_value: true },
    ],
  };
};

const installRules = [outOfDate, conflict, noSuchNode, noSuchPython];
const buildRules = [missingScript, moduleFormat, missingNode, missingPython, missingEnv];
const startRules = [moduleFormat, missingNode, missingPython, missingScript, missingEnv];

async function firstOf(rules: readonly Rule[], failure: Failure): Promise<Diagnosis | null> {
  for (const rule of rules) {
    const found = await rule(failure);
    if (found) return found;
  }
  return null;
}

export const diagnoseInstall = (guest: GuestClient, plan: Plan, lines: readonly string[]) =>
  firstOf(installRules, { guest, plan, lines, isBuild: true });
export const diagnoseBuild = (guest: GuestClient, plan: Plan, lines: readonly string[]) =>
  firstOf(buildRules, { guest, plan, lines, isBuild: true });
export const diagnoseStart = (guest: GuestClient, plan: Plan, lines: readonly string[]) =>
  firstOf(startRules, { guest, plan, lines, isBuild: false });

const stackFrame = /^\s+at\s.*:\d+:\d+\)?$|^\s*at .*<anonymous>/;

/** The lines that a person would look at first: what was said, before where in a package's insides it was said. */
export function errorLines(lines: readonly string[]): string[] {
  const said = lines.filter((line) => line.trim() !== "" && !stackFrame.test(line));
  const telling = said.filter((line) =>
    /error|exception|fail|cannot|not found|no longer|denied|:\d+:\d+/i.test(line),
  );
  return (telling.length > 0 ? telling : said.length > 0 ? said : lines)
    .slice(-8)
    .map((line) => line.trim().slice(0, 300));
}
