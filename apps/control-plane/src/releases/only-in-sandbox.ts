import type { ProblemPatch } from "@platform/contract";
import type { GuestClient } from "@platform/guest-protocol";
import { queryOne } from "@platform/postgres";
import type { Platform } from "../platform.ts";
import type { Diagnosis } from "./diagnosis.ts";

/** What a release was seen to lack at its start, which the sandbox it came from has. */
interface Trouble {
  readonly guest: GuestClient;
  readonly lines: readonly string[];
  /** Names that are set for the sandbox and not for the deployment. */
  readonly onlyInSandbox: readonly string[];
  readonly set: Readonly<Record<string, string>>;
}

const sources =
  "--include=*.js --include=*.mjs --include=*.cjs --include=*.ts --include=*.mts --include=*.py --exclude-dir=node_modules --exclude-dir=.python --exclude-dir=.git";

function find(lines: readonly string[], pattern: RegExp) {
  for (const line of lines) {
    const match = pattern.exec(line);
    if (match) return { line: line.trim().slice(0, 300), groups: match.groups ?? {} };
  }
  return null;
}

/** Where the app's own files name it, as `file:line: text`. */
async function places(guest: GuestClient, text: string): Promise<string[]> {
  const quoted = `'${text.replaceAll("'", `'\\''`)}'`;
  const seen = await guest.exec(`grep -rnF ${sources} -e ${quoted} . | head -5`, {
    cwd: "/workspace",
    timeoutMs: 20_000,
  });
  return seen.stdout
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => line.replace(/^\.\//, "").slice(0, 300));
}

const missingPath =
  /(?:ENOENT: no such file or directory, \w+|No such file or directory:) '(?<path>\/[^']+)'|Cannot find (?:module|package) '(?<module>\/(?!workspace\/)[^']+)'/;
const envFile = /(^|\/)\.env(\.\w+)?$/;

/** A file that is outside of the app, or that is never part of a release. */
async function outsideFile({ guest, lines }: Trouble): Promise<Diagnosis | null> {
  const seen = find(lines, missingPath);
  const path = seen?.groups["path"] ?? seen?.groups["module"];
  if (!seen || !path) return null;
  const inside = path.startsWith("/workspace/") ? path.slice("/workspace/".length) : null;
  const why =
    inside === null
      ? `${path} is outside of /workspace: the sandbox has it, a release does not. Keep it among the app's files, or in a bucket or database.`
      : envFile.test(path)
        ? `${inside} is never part of a release, as it holds secrets. Set its variables on the deployment and read them from the environment.`
        : `${inside} is not in the release. Write it at the build or the start, or see why it is left out (node_modules/.cache, .git and the like are).`;
  return {
    code: "SOURCE_FILE_MISSING",
    message: why,
    pointer: "",
    evidence: [seen.line, ...(await places(guest, path))],
    facts: { missing_file: inside ?? path },
  };
}

const refusedService =
  /ECONNREFUSED (?<a>[\w.:[\]-]+:\d+)|(?:ENOTFOUND|EAI_AGAIN) (?<b>[\w.-]+)|connection to server at "(?<host>[^"]+)"(?: \([^)]*\))?, port (?<port>\d+) failed|(?:Error|\[Errno) 111\]? connecting to (?<c>[\w.-]+:\d+)|could not translate host name "(?<d>[\w.-]+)"/;
const knownPorts: Readonly<Record<string, string>> = {
  ...{ 5432: "PostgreSQL", 3306: "MySQL", 6379: "Redis", 27017: "MongoDB", 9200: "a search engine" },
};

/** A service that only runs, or is only known, in the sandbox. */
async function unreachable({ guest, lines, set }: Trouble): Promise<Diagnosis | null> {
  const seen = find(lines, refusedService);
  if (!seen) return null;
  const { a, b, c, d, host, port } = seen.groups;
  const service = a ?? c ?? (host ? `${host}:${port}` : (b ?? d ?? ""));
  const number = /:(\d+)$/.exec(service)?.[1] ?? "";
  const kind = knownPorts[number];
  const mayBePostgres =
    kind === "PostgreSQL" || kind === undefined || /\bpg\b|postgres|psycopg/i.test(lines.join("\n"));
  const readsUrl =
    mayBePostgres && set["DATABASE_URL"] === undefined ? await places(guest, "DATABASE_URL") : [];
  const isPostgres = kind === "PostgreSQL" || readsUrl.length > 0;
  const patch: ProblemPatch[] = [
    { type: "request", operations: [{ op: "add", path: "/database", value: true }] },
  ];
  return {
    code: "PREFLIGHT_SERVICE_UNREACHABLE",
    message:
      `The app connects to ${service}${kind ? ` (${kind})` : ""}, which a release does not reach: a service that runs in the sandbox, or is only known there, does not come with the app. ` +
      (isPostgres
        ? "Link a database (database: true, or POST /deployments/ID/database), and connect to DATABASE_URL."
        : "Give its address as a variable of the deployment, such as env.REDIS_URL, and read it there."),
    pointer: isPostgres ? "/database" : "/env",
    evidence: [seen.line, ...readsUrl, ...(number === "" ? [] : await places(guest, number))].slice(0, 8),
    facts: { service },
    ...(readsUrl.length > 0 ? { patch } : {}),
  };
}

/** A variable that the sandbox has, the app reads, and the deployment lacks. */
async function sandboxVariable({ guest, onlyInSandbox }: Trouble): Promise<Diagnosis | null> {
  for (const name of onlyInSandbox.slice(0, 50)) {
    const seen = await places(guest, name);
    if (seen.length === 0) continue;
    return {
      code: "REQUIRED_ENV_MISSING",
      message: `The app reads the variable ${name}, which is set for the sandbox and not for the deployment. Send it as env.${name} with the publish, or set it on the deployment, and publish again.`,
      pointer: `/env/${name}`,
      evidence: seen,
      facts: { missing: [name] },
      patch: [
        { type: "request", operations: [{ op: "add", path: `/env/${name}`, value: "" }], needs_value: true },
      ],
    };
  }
  return null;
}

/** Names of the variables that somebody set for the sandbox. */
async function sandboxNames(platform: Platform, sandboxId: string | null): Promise<string[]> {
  if (sandboxId === null) return [];
  const row = await queryOne<{ env_sealed: Buffer }>(
    platform.pool,
    "select env_sealed from sandboxes where id = $1",
    [sandboxId],
  );
  if (!row) return [];
  return Object.keys(JSON.parse(platform.seal.open(row.env_sealed)) as Record<string, string>);
}

/** What only worked because of the sandbox: a file beside the app, a service in it, a variable of it. */
export async function onlyInSandbox(
  platform: Platform,
  sandboxId: string | null,
  guest: GuestClient,
  lines: readonly string[],
  set: Readonly<Record<string, string>>,
): Promise<Diagnosis | null> {
  const names = (await sandboxNames(platform, sandboxId)).filter((name) => set[name] === undefined);
  const trouble: Trouble = { guest, lines, set, onlyInSandbox: names.sort() };
  return (await outsideFile(trouble)) ?? (await unreachable(trouble)) ?? (await sandboxVariable(trouble));
}
