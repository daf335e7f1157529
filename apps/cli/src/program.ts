import { Command, CommanderError } from "commander";
import { brand } from "./brand.ts";
import { addDatabase } from "./commands/database.ts";
import { addDeploy } from "./commands/deploy.ts";
import { addCertificates } from "./commands/certificates.ts";
import { addDomains } from "./commands/domains.ts";
import { addDoctor } from "./commands/doctor.ts";
import { addLogin } from "./commands/login.ts";
import { addPublish } from "./commands/publish.ts";
import { addQuota } from "./commands/quota.ts";
import { addRelease } from "./commands/release.ts";
import { addResources } from "./commands/resources.ts";
import { addSandbox } from "./commands/sandbox.ts";
import { addTemplate } from "./commands/template.ts";
import type { Context } from "./context.ts";
import { CliError } from "./failure.ts";
import { addOperatorCommands } from "./operator/commands.ts";
import { Output, type Streams } from "./output.ts";
import type { Environment } from "./settings.ts";

export interface Invocation {
  readonly arguments: readonly string[];
  readonly environment: Environment;
  readonly streams: Streams;
  readonly stdin: NodeJS.ReadStream;
  readonly cwd: string;
  readonly repository: string;
}

interface GlobalOptions {
  readonly json?: boolean;
  readonly endpoint?: string;
  readonly debug?: boolean;
}

/** @returns exit code: 0 ok, 1 user error, 2 network, 3 auth, 4 server; `exec` passes its command's own */
export async function run(invocation: Invocation): Promise<number> {
  let exitCode = 0;
  // Also read from the words themselves: on a usage error the parser may not have come as far as the option.
  const wantsJson = invocation.arguments.includes("--json");
  const program = new Command(brand.command)
    .description(`${brand.name}: sandboxes, previews, releases and databases`)
    .version(brand.version)
    .option("--json", "print results and errors as JSON")
    .option("--endpoint <url>", "API endpoint, without /api/v1")
    .option("--debug", "print where an error came from")
    .exitOverride()
    .showHelpAfterError(!wantsJson)
    .configureOutput({
      writeOut: (text) => invocation.streams.stdout.write(text),
      writeErr: (text) => {
        if (!wantsJson) invocation.streams.stderr.write(text);
      },
    });
  if (brand.helpUrl) program.addHelpText("after", `\nHelp: ${brand.helpUrl}`);
  const output = () =>
    new Output(invocation.streams, wantsJson || (program.opts<GlobalOptions>().json ?? false));
  const context = (): Context => {
    const options = program.opts<GlobalOptions>();
    return {
      environment: invocation.environment,
      output: output(),
      stdin: invocation.stdin,
      cwd: invocation.cwd,
      repository: invocation.repository,
      flags: { ...(options.endpoint ? { endpoint: options.endpoint } : {}), debug: options.debug ?? false },
      setExitCode: (code) => {
        exitCode = code;
      },
    };
  };
  for (const add of [
    addDoctor,
    addLogin,
    addSandbox,
    addDatabase,
    addPublish,
    addDeploy,
    addDomains,
    addCertificates,
    addRelease,
    addQuota,
    addResources,
    addTemplate,
    addOperatorCommands,
  ])
    add(program, context);
  inheritSettings(program);
  try {
    await program.parseAsync([...invocation.arguments], { from: "user" });
    return exitCode;
  } catch (error) {
    if (error instanceof CommanderError) {
      if (error.exitCode === 0) return 0;
      if (wantsJson) output().fail(usageError(error), false);
      return 1;
    }
    return output().fail(error, program.opts<GlobalOptions>().debug ?? false);
  }
}

function usageError(error: CommanderError): CliError {
  const message = error.message.replace(/^error: /, "");
  return new CliError("USAGE", message, `See what there is: ${brand.command} --help`);
}

/** Subcommands made by `command()` take over exitOverride and output settings only at their creation. */
function inheritSettings(program: Command): void {
  for (const command of program.commands) {
    command.copyInheritedSettings(program);
    inheritSettings(command);
  }
}
