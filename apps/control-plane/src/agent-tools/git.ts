import { PlatformError, agentToolRoutes as r } from "@platform/contract";
import { handler, type Call, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { guestProblem, liveSandbox, sandboxPath } from "../sandboxes/index.ts";

const timeoutMs = 25_000;
const cloneTimeoutMs = 10 * 60_000;
const mostDiffBytes = 4 * 1024 * 1024;
const field = "\u001f";

const quote = (word: string) => `'${word.replaceAll("'", `'\\''`)}'`;

interface Ran {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
  readonly stdoutTruncated: boolean;
}

/** A name that git would take for an option is none of a branch or commit. */
function refOf(name: string, what: string): string {
  if (name.startsWith("-") || /[\s~^:?*[\\]|\.\./.test(name))
    throw new PlatformError("VALIDATION_FAILED", `${what} is not the name of a branch or commit.`, {
      errors: { [what]: ["is not the name of a branch or commit"] },
    });
  return name;
}

export function gitHandlers(platform: Platform): Handler[] {
  const runner = async (call: Pick<Call, "caller" | "params" | "signal">, folder: string) => {
    const { guest } = await liveSandbox(platform, call.caller, call.params["id"]!);
    const cwd = sandboxPath(folder);
    /** Answers with what git said; `allowed` are exit codes that are no failure. */
    return async (
      words: readonly string[],
      options: { allowed?: readonly number[]; timeoutMs?: number; cwd?: string } = {},
    ): Promise<Ran> => {
      const command = ["git", "-c", "core.quotepath=off", "-c", "safe.directory=*", ...words]
        .map(quote)
        .join(" ");
      const result = await guest
        .exec(command, {
          cwd: options.cwd ?? cwd,
          // A question for a password would wait for an answer that never comes.
          env: { GIT_TERMINAL_PROMPT: "0", GIT_PAGER: "cat", LC_ALL: "C" },
          timeoutMs: options.timeoutMs ?? timeoutMs,
          maxOutputBytes: mostDiffBytes,
          signal: call.signal,
        })
        .catch((error: unknown) => {
          throw guestProblem(error, cwd);
        });
      if ([0, ...(options.allowed ?? [])].includes(result.exitCode) && !result.timedOut) return result;
      throw new PlatformError("GIT_FAILED", explain(result, cwd), {
        details: {
          exit_code: result.exitCode,
          timed_out: result.timedOut,
          stderr: result.stderr.slice(-2000),
        },
      });
    };
  };
  const explain = (result: Ran & { timedOut: boolean }, cwd: string) => {
    if (result.timedOut) return "git took too long. Narrow what it shall do, or run it with exec.";
    if (result.exitCode === 127) return "The sandbox has no git. Install it, or use a template that has it.";
    if (/not a git repository/.test(result.stderr))
      return `${cwd} is no git repository. Clone one, or make one with commit.`;
    return `git refused: ${result.stderr.trim().split("\n").at(-1)?.slice(0, 300) ?? "no reason was given"}`;
  };
  return [
    handler(r.gitStatus, async (call) => {
      const git = await runner(call, call.query.path);
      const { stdout } = await git(["status", "--porcelain=v2", "--branch", "-z"]);
      return statusOf(stdout);
    }),
    handler(r.gitDiff, async (call) => {
      const { staged, ref, path } = call.query;
      const git = await runner(call, path);
      const isStaged = staged !== undefined && staged !== "false" && staged !== "0";
      const result = await git([
        "diff",
        "--no-color",
        "--no-ext-diff",
        ...(isStaged ? ["--cached"] : []),
        ...(ref ? [refOf(ref, "ref")] : []),
        "--",
      ]);
      return { diff: result.stdout, truncated: result.stdoutTruncated };
    }),
    handler(r.gitLog, async (call) => {
      const git = await runner(call, call.query.path);
      const { stdout } = await git(
        [
          "log",
          `--max-count=${call.query.limit}`,
          `--format=%H${field}%an${field}%ae${field}%aI${field}%s%x00`,
        ],
        // A repository without a commit has no log.
        { allowed: [128] },
      );
      return stdout.split("\0").flatMap((line) => {
        const [sha, author, email, at, subject] = line.trim().split(field);
        return sha && at ? [{ sha, author, email, at: new Date(at).toISOString(), subject }] : [];
      });
    }),
    handler(r.gitBranches, async (call) => {
      const git = await runner(call, call.query.path);
      const { stdout } = await git([
        "branch",
        "--list",
        `--format=%(refname:short)${field}%(objectname)${field}%(HEAD)`,
      ]);
      return stdout
        .split("\n")
        .filter(Boolean)
        .map((line) => {
          const [name, sha, head] = line.split(field);
          return { name, sha, current: head === "*" };
        });
    }),
    handler(r.gitBranch, async (call) => {
      const name = refOf(call.body.name, "name");
      const git = await runner(call, call.body.path);
      const known = await git(["rev-parse", "--verify", "--quiet", `refs/heads/${name}`], {
        allowed: [1, 128],
      });
      const isNew = known.exitCode !== 0;
      await git(
        isNew
          ? ["checkout", "-b", name, ...(call.body.from ? [refOf(call.body.from, "from")] : [])]
          : ["checkout", name, "--"],
      );
      return { name, created: isNew };
    }),
    handler(r.gitCommit, async (call) => {
      const { message, paths, author_name: name, author_email: email, path } = call.body;
      const git = await runner(call, path);
      const inside = await git(["rev-parse", "--is-inside-work-tree"], { allowed: [128] });
      if (inside.exitCode !== 0) await git(["init", "-b", "main"]);
      await git(["add", ...(paths ? ["--", ...paths] : ["--all"])]);
      const nothing = (await git(["diff", "--cached", "--quiet"], { allowed: [1] })).exitCode === 0;
      if (nothing) return { committed: false, sha: null, reason: "nothing_changed" };
      await git([
        "-c",
        `user.name=${name}`,
        "-c",
        `user.email=${email}`,
        "commit",
        "--no-gpg-sign",
        "-m",
        message,
      ]);
      const sha = (await git(["rev-parse", "HEAD"])).stdout.trim();
      return { committed: true, sha, reason: null };
    }),
    handler(r.gitClone, async (call) => {
      const { url, branch, depth, path } = call.body;
      const git = await runner(call, path);
      const target = sandboxPath(path);
      await git(
        [
          "clone",
          ...(branch ? ["--branch", refOf(branch, "branch")] : []),
          ...(depth ? ["--depth", String(depth)] : []),
          "--",
          url,
          target,
        ],
        { timeoutMs: cloneTimeoutMs, cwd: "/" },
      );
      const sha = (await git(["rev-parse", "HEAD"], { cwd: target, allowed: [128] })).stdout.trim();
      return { path: target, sha: sha === "" ? null : sha };
    }),
  ];
}

/** Git's own format for programs: one record a change, ended by a null character. */
export function statusOf(porcelain: string) {
  const records = porcelain.split("\0");
  const status = {
    branch: null as string | null,
    sha: null as string | null,
    ahead: 0,
    behind: 0,
    clean: true,
    files: [] as { path: string; index: string; worktree: string; renamed_from?: string }[],
  };
  for (let at = 0; at < records.length; at++) {
    const record = records[at]!;
    if (record.startsWith("# branch.head ")) status.branch = record.slice("# branch.head ".length);
    else if (record.startsWith("# branch.oid ")) {
      const sha = record.slice("# branch.oid ".length);
      status.sha = sha === "(initial)" ? null : sha;
    } else if (record.startsWith("# branch.ab ")) {
      const [, ahead, behind] = /\+(\d+) -(\d+)/.exec(record) ?? [];
      status.ahead = Number(ahead ?? 0);
      status.behind = Number(behind ?? 0);
    } else if (/^[12u] /.test(record)) {
      const words = record.split(" ");
      const [index = ".", worktree = "."] = [...(words[1] ?? "..")];
      const skipped = record.startsWith("1") ? 8 : record.startsWith("2") ? 9 : 10;
      const path = words.slice(skipped).join(" ");
      status.files.push({
        path,
        index,
        worktree,
        ...(record.startsWith("2") ? { renamed_from: records[++at] ?? "" } : {}),
      });
    } else if (record.startsWith("? "))
      status.files.push({ path: record.slice(2), index: "?", worktree: "?" });
  }
  status.clean = status.files.length === 0;
  return status;
}
