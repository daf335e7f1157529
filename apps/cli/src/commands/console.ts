import { Option, type Command } from "commander";
import type { Client, ConsoleLine } from "@platform/sdk";
import { withClient, type Context } from "../context.ts";
import { parseCount } from "../pairs.ts";

const levels = ["debug", "log", "info", "warn", "error"] as const;

interface ConsoleOptions {
  readonly lines: number;
  readonly level?: ConsoleLine["level"];
  readonly follow?: boolean;
}

/** What pages of a sandbox's previews said in browsers. */
export function addConsole(sandbox: Command, context: () => Context): void {
  sandbox
    .command("console")
    .description("what pages of its previews said in browsers: console, errors, failed requests")
    .argument("<sandbox>", "id or name")
    .option("--lines <count>", "", parseCount, 100)
    .addOption(new Option("--level <level>", "this one or graver").choices(levels))
    .option("-f, --follow", "print new lines as they come, until Ctrl-C")
    .action(async (id: string, options: ConsoleOptions) =>
      withClient(context(), async (client) => {
        const { output } = context();
        const { level } = options;
        const found = (await client.sandboxes.find(id)).id;
        const list = await client.sandboxes.console(found, {
          limit: options.lines,
          ...(level ? { level } : {}),
        });
        if (options.follow !== true) {
          output.result(list, list.lines.map(textOf));
          if (list.dropped > 0) output.say(`• ${list.dropped} more came too fast to be kept`);
          return;
        }
        const print = (line: ConsoleLine) =>
          output.raw(`${output.isJson ? JSON.stringify(line) : textOf(line)}\n`);
        for (const line of list.lines) print(line);
        await follow(client, found, list.cursor, (line) => {
          if ("dropped" in line) output.say(`• ${line.dropped} lines came too fast to be kept`);
          else if (level === undefined || levels.indexOf(line.level) >= levels.indexOf(level)) print(line);
        });
      }),
    );
}

async function follow(
  client: Client,
  id: string,
  after: number,
  print: (line: ConsoleLine | { dropped: number }) => void,
): Promise<void> {
  for await (const line of client.sandboxes.followConsole(id, { after })) print(line);
}

/** One line: a stack's first frames below it would be read as lines of their own. */
function textOf(line: ConsoleLine): string {
  const place = line.kind === "exception" && line.source ? ` (${line.source}:${line.line ?? 0})` : "";
  const page = line.page ? ` ${line.page}` : "";
  return `${line.at} ${line.port}${page} ${line.level} ${line.text.replaceAll(/\s*\n\s*/g, " ⏎ ")}${place}`;
}
