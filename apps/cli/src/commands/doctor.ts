import type { Command } from "commander";
import { fetch } from "undici";
import { createClient, localhostDispatcher } from "@platform/sdk";
import { brand } from "../brand.ts";
import type { Context } from "../context.ts";
import { exitCodes, toFailure, CliError } from "../failure.ts";
import { check, type Check } from "../operator/check.ts";
import { machineChecks } from "../operator/machine-checks.ts";
import { resolveSettings, toBaseUrl } from "../settings.ts";

export function addDoctor(program: Command, context: () => Context): void {
  program
    .command("doctor")
    .description("look at this machine and at the endpoint, and say what is missing")
    .option("--local", "this machine only")
    .action(async (options: { local?: boolean }) => doctor(context(), options.local ?? false));
}

async function doctor(context: Context, isLocal: boolean): Promise<void> {
  const checks = [...machineChecks(context), ...(isLocal ? [] : await endpointChecks(context))];
  const marks = { ok: "✓", no: "–", bad: "✗" };
  context.output.result(
    { checks },
    checks.flatMap((check) => [
      `${marks[check.status]} ${check.name}: ${check.seen}`,
      ...(check.remedy ? [`  do:  ${check.remedy}`] : []),
    ]),
  );
  if (checks.some((check) => check.status === "bad")) context.setExitCode(exitCodes.user);
}

async function endpointChecks(context: Context): Promise<Check[]> {
  let settings;
  try {
    settings = resolveSettings(context.environment, context.flags);
  } catch (error) {
    if (!(error instanceof CliError)) throw error;
    return [{ name: "endpoint", status: "no", seen: error.message, remedy: error.remedy }];
  }
  const checks = [await healthCheck(settings.endpoint)];
  const client = createClient({
    baseUrl: toBaseUrl(settings.endpoint),
    apiKey: settings.apiKey,
    maxRetries: 0,
    timeoutMs: 10_000,
  });
  try {
    const tenant = await client.tenant();
    checks.push({ name: "key", status: "ok", seen: `belongs to ${tenant.name}`, remedy: null });
  } catch (error) {
    const failure = toFailure(error);
    checks.push({
      name: "key",
      status: "bad",
      seen: `${failure.code}: ${failure.message}`,
      remedy: `${brand.command} login`,
    });
  } finally {
    await client.close();
  }
  return checks;
}

async function healthCheck(endpoint: string): Promise<Check> {
  const dispatcher = localhostDispatcher();
  const remedy = "Check that it runs and that the endpoint is right.";
  try {
    const response = await fetch(`${endpoint}/health`, { dispatcher, signal: AbortSignal.timeout(10_000) });
    await response.body?.cancel();
    return check(`endpoint ${endpoint}`, response.status === 200, `answers ${response.status}`, remedy);
  } catch (error) {
    const why = error instanceof Error && error.cause instanceof Error ? error.cause.message : String(error);
    return { name: `endpoint ${endpoint}`, status: "bad", seen: why, remedy };
  } finally {
    await dispatcher.destroy();
  }
}
