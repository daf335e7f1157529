import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { hostname } from "node:os";
import type { Command } from "commander";
import { brand } from "../brand.ts";
import { TenantScanner, type ScanReport } from "../brand-scan/tenant-scan.ts";
import type { Context } from "../context.ts";
import { CliError } from "../failure.ts";
import { resolveSettings } from "../settings.ts";

interface ScanOptions {
  readonly sandbox?: string;
  readonly dns?: string[];
  readonly connect?: string;
  readonly program?: string;
  readonly name?: string[];
}

const timeoutMs = 30_000;

export function addBrand(program: Command, context: () => Context): void {
  program
    .command("brand")
    .description("what a tenant's users see")
    .command("scan")
    .description(
      "look for our name, a provider's or the machine's in everything that a tenant's users can see",
    )
    .argument("<tenant>", "slug, as `whoami` shows it; the key must be that tenant's")
    .option("--sandbox <id>", "a running sandbox to look into (standard: the first one)")
    .option("--dns <server...>", "name servers to ask, such as 127.0.0.1:5353")
    .option("--connect <host:port>", "dial this for every host name")
    .option("--program <file>", "a command-line program of the tenant's to run and read")
    .option("--name <text...>", "further names that nobody may see, such as a folder of the machine")
    .action(async (tenant: string, options: ScanOptions) => {
      const report = await scan(context(), tenant, options);
      context().output.result(report, lines(report));
      if (report.findings.length > 0) context().setExitCode(1);
    });
}

async function scan(context: Context, tenant: string, options: ScanOptions): Promise<ScanReport> {
  const { endpoint, apiKey } = resolveSettings(context.environment, context.flags);
  const step = context.output.step("scan");
  const scanner = new TenantScanner({
    endpoint,
    apiKey,
    connection: { connectTo: options.connect ?? null, timeoutMs },
    dnsServers: options.dns ?? [],
    sandbox: options.sandbox ?? null,
    extra: [hostname(), ...(options.name ?? [])].map((text) => ({ owner: "machine", text })),
    progress: (text) => step.note(text),
  });
  const slug = await scanner.tenant();
  if (slug !== tenant)
    throw new CliError(
      "OTHER_TENANT",
      slug === ""
        ? "The API does not say whose the key is."
        : `The key is one of "${slug}", not of "${tenant}".`,
      `Log in with a key of that tenant: ${brand.command} login`,
    );
  if (options.program) readProgram(scanner, options.program);
  const report = await scanner.run();
  step.done(`looked at ${report.looked_at} texts on ${report.pages} pages`);
  return report;
}

/** The file, what it prints for help, and what it says when it is used wrongly. */
function readProgram(scanner: TenantScanner, file: string): void {
  scanner.program(file, readFileSync(file, "utf8"));
  const environment = { PATH: process.env["PATH"] ?? "", HOME: "/nonexistent" };
  for (const args of [
    ["--help"],
    ["--version"],
    ["no-such-command"],
    ["whoami"],
    ["sandbox", "--help"],
    ["doctor"],
  ]) {
    const ran = spawnSync(process.execPath, [file, ...args], {
      env: environment,
      encoding: "utf8",
      timeout: timeoutMs,
    });
    scanner.text(`${file} ${args.join(" ")}`, "output", ran.stdout + ran.stderr);
  }
}

function lines(report: ScanReport): string[] {
  return [
    ...report.findings.map(
      ({ where, part, name, encoding, evidence }) =>
        `✗ ${where}: ${part} shows "${name}"${encoding ? ` (${encoding})` : ""}\n    ${evidence}`,
    ),
    ...report.unreached.map((text) => `? did not answer: ${text}`),
    ...report.not_looked_at.map((text) => `- not looked at: ${text}`),
    report.findings.length === 0 ? "No name was found." : `${report.findings.length} names were found.`,
  ];
}
