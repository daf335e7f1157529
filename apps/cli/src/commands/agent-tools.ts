import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { text } from "node:stream/consumers";
import type { Command } from "commander";
import type { Client } from "@platform/sdk";
import { withClient, type Context } from "../context.ts";
import { parseCount } from "../pairs.ts";

interface SearchOptions {
  readonly regex?: boolean;
  readonly ignoreCase?: boolean;
  readonly path: string;
  readonly include?: string[];
  readonly exclude?: string[];
}

const list = (one: string, before: string[] = []): string[] => [...before, one];
const requestOf = (pattern: string, options: SearchOptions) => ({
  pattern,
  path: options.path,
  regex: options.regex ?? false,
  case_sensitive: !options.ignoreCase,
  ...(options.include ? { include: options.include } : {}),
  ...(options.exclude ? { exclude: options.exclude } : {}),
});

const withSearchOptions = (command: Command): Command =>
  command
    .option("-e, --regex", "the pattern is a regular expression")
    .option("-i, --ignore-case")
    .option("--path <path>", "", "/workspace")
    .option("--include <glob>", "only these files, such as '**/*.ts' (repeatable)", list)
    .option("--exclude <glob>", "(repeatable)", list);

/** Search, replace, patch and git in a sandbox's files. */
export function addAgentTools(sandbox: Command, context: () => Context): void {
  const run = (id: string, work: (client: Client, id: string, context: Context) => Promise<void>) =>
    withClient(context(), async (client) => work(client, (await client.sandboxes.find(id)).id, context()));

  withSearchOptions(
    sandbox
      .command("search")
      .description("find text in files")
      .argument("<sandbox>", "id or name")
      .argument("<pattern>"),
  )
    .option("--max <count>", "", parseCount, 200)
    .action((id: string, pattern: string, options: SearchOptions & { max: number }) =>
      run(id, async (client, found, { output }) => {
        const result = await client.tools.search(found, {
          ...requestOf(pattern, options),
          max_results: options.max,
        });
        output.result(
          result,
          result.matches.map((one) => `${one.path}:${one.line}:${one.column}: ${one.text}`),
        );
        if (result.truncated)
          output.say(`• more than ${options.max} were found; narrow the search or raise --max`);
      }),
    );
  withSearchOptions(
    sandbox
      .command("replace")
      .description("replace text in files")
      .argument("<sandbox>", "id or name")
      .argument("<pattern>")
      .argument("<replacement>"),
  )
    .option("--dry-run", "say what would change")
    .option("--expect <count>", "change nothing unless it occurs so often", parseCount)
    .action(
      (
        id: string,
        pattern: string,
        replacement: string,
        options: SearchOptions & { dryRun?: boolean; expect?: number },
      ) =>
        run(id, async (client, found, { output }) => {
          const result = await client.tools.replace(found, {
            ...requestOf(pattern, options),
            replacement,
            dry_run: options.dryRun ?? false,
            ...(options.expect === undefined ? {} : { expected_count: options.expect }),
          });
          output.result(
            result,
            result.files.map((one) => `${one.path}  ${one.count}`),
          );
        }),
    );
  sandbox
    .command("patch")
    .description("apply a unified diff, all of it or nothing")
    .argument("<sandbox>", "id or name")
    .argument("<file>", "a file of this machine, or - for standard input")
    .option("--path <folder>", "", "/workspace")
    .option("--dry-run")
    .action((id: string, file: string, options: { path: string; dryRun?: boolean }) =>
      run(id, async (client, found, { output, stdin, cwd }) => {
        const patch = file === "-" ? await text(stdin) : readFileSync(resolve(cwd, file), "utf8");
        const result = await client.tools.patch(found, {
          patch,
          path: options.path,
          dry_run: options.dryRun ?? false,
        });
        output.result(
          result,
          result.files.map((one) => `${one.action}  ${one.path}`),
        );
      }),
    );
  addGit(sandbox, run);
}

function addGit(
  sandbox: Command,
  run: (id: string, work: (client: Client, id: string, context: Context) => Promise<void>) => Promise<void>,
): void {
  const git = sandbox.command("git").description("git in a sandbox's workspace");
  git
    .command("status")
    .argument("<sandbox>", "id or name")
    .action((id: string) =>
      run(id, async (client, found, { output }) => {
        const status = await client.tools.gitStatus(found);
        output.result(status, [
          `on ${status.branch ?? "no branch"}${status.clean ? ", clean" : ""}`,
          ...status.files.map((one) => `${one.index}${one.worktree} ${one.path}`),
        ]);
      }),
    );
  git
    .command("diff")
    .argument("<sandbox>", "id or name")
    .option("--staged")
    .action((id: string, options: { staged?: boolean }) =>
      run(id, async (client, found, { output }) => {
        const result = await client.tools.gitDiff(found, options);
        output.result(result, result.diff.trimEnd());
      }),
    );
  git
    .command("log")
    .argument("<sandbox>", "id or name")
    .option("--limit <count>", "", parseCount, 20)
    .action((id: string, options: { limit: number }) =>
      run(id, async (client, found, { output }) => {
        const commits = await client.tools.gitLog(found, options.limit);
        output.result(
          commits,
          commits.map((one) => `${one.sha.slice(0, 8)} ${one.at} ${one.subject}`),
        );
      }),
    );
  git
    .command("commit")
    .argument("<sandbox>", "id or name")
    .argument("<message>")
    .action((id: string, message: string) =>
      run(id, async (client, found, { output }) => {
        const made = await client.tools.gitCommit(found, { message });
        output.result(made, made.sha ?? "nothing changed");
      }),
    );
  git
    .command("branch")
    .argument("<sandbox>", "id or name")
    .argument("<name>")
    .action((id: string, name: string) =>
      run(id, async (client, found, { output }) => {
        const branch = await client.tools.gitBranch(found, { name });
        output.result(branch, `${branch.created ? "made" : "switched to"} ${branch.name}`);
      }),
    );
  git
    .command("clone")
    .argument("<sandbox>", "id or name")
    .argument("<url>")
    .option("--path <folder>", "", "/workspace")
    .action((id: string, url: string, options: { path: string }) =>
      run(id, async (client, found, { output }) => {
        const cloned = await client.tools.gitClone(found, { url, path: options.path });
        output.result(cloned, `${cloned.path} ${cloned.sha ?? ""}`.trim());
      }),
    );
}
