import { createInterface } from "node:readline/promises";
import { Writable } from "node:stream";
import { text as readAll } from "node:stream/consumers";
import type { Command } from "commander";
import { createClient } from "@platform/sdk";
import { brand } from "../brand.ts";
import type { Context } from "../context.ts";
import { CliError } from "../failure.ts";
import {
  apiKeyVariable,
  configPath,
  endpointVariable,
  resolveSettings,
  storeSettings,
  toBaseUrl,
  toOrigin,
} from "../settings.ts";

export function addLogin(program: Command, context: () => Context): void {
  program
    .command("login")
    .description("verify an endpoint and key and keep them")
    .option("--key-stdin", "read the key from standard input")
    .action(async (options: { keyStdin?: boolean }) => login(context(), options.keyStdin ?? false));

  program
    .command("env")
    .description("show which endpoint and key are in force")
    .option("--export", "print shell lines, with the key in clear text")
    .action((options: { export?: boolean }) => showEnvironment(context(), options.export ?? false));
}

async function login(context: Context, keyFromStdin: boolean): Promise<void> {
  const { endpoint, apiKey } = await ask(context, keyFromStdin);
  const client = createClient({ baseUrl: toBaseUrl(endpoint), apiKey, maxRetries: 1 });
  try {
    const tenant = await client.tenant();
    if (!tenant.slug)
      throw new CliError("NOT_AN_API", `${endpoint} did not name a tenant.`, "Check the endpoint.");
    const path = configPath(context.environment);
    storeSettings(path, endpoint, apiKey);
    context.output.result(
      { endpoint, tenant, config: path },
      `Logged in to ${tenant.name} (${tenant.slug}) at ${endpoint}.`,
    );
  } finally {
    await client.close();
  }
}

async function ask(context: Context, keyFromStdin: boolean): Promise<{ endpoint: string; apiKey: string }> {
  const known =
    context.flags.endpoint ?? context.environment[endpointVariable] ?? brand.endpoint ?? undefined;
  if (keyFromStdin) {
    if (!known) throw new CliError("ENDPOINT_REQUIRED", "No endpoint is given.", "Add --endpoint URL.");
    return { endpoint: toOrigin(known), apiKey: checked(await readAll(context.stdin)) };
  }
  if (!context.stdin.isTTY) {
    throw new CliError(
      "NOT_A_TERMINAL",
      "There is nobody to ask.",
      `Run: ${brand.command} login --endpoint URL --key-stdin < key-file`,
    );
  }
  let isMuted = false;
  const screen = new Writable({
    write(chunk: Buffer, _encoding, callback) {
      if (!isMuted) context.output.raw(chunk, "stderr");
      callback();
    },
  });
  const prompt = createInterface({ input: context.stdin, output: screen, terminal: true });
  try {
    const endpoint = known ?? (await prompt.question("Endpoint (such as https://api.example.com): "));
    context.output.raw("Key (not shown): ", "stderr");
    isMuted = true;
    const apiKey = await prompt.question("");
    context.output.raw("\n", "stderr");
    return { endpoint: toOrigin(endpoint.trim()), apiKey: checked(apiKey) };
  } finally {
    prompt.close();
  }
}

function checked(text: string): string {
  const key = text.trim();
  if (/^[\x21-\x7e]{8,512}$/.test(key)) return key;
  throw new CliError(
    "INVALID_KEY",
    "What was read is no key.",
    "Give the key alone, as it was shown when it was made.",
  );
}

function showEnvironment(context: Context, asExport: boolean): void {
  const settings = resolveSettings(context.environment, context.flags);
  if (asExport) {
    context.output.raw(
      `export ${endpointVariable}='${settings.endpoint}'\nexport ${apiKeyVariable}='${settings.apiKey}'\n`,
    );
    return;
  }
  const masked = `${settings.apiKey.slice(0, 6)}…${settings.apiKey.slice(-4)}`;
  context.output.result(
    {
      endpoint: settings.endpoint,
      endpoint_from: settings.endpointFrom,
      api_key: masked,
      api_key_from: settings.apiKeyFrom,
    },
    [
      `endpoint  ${settings.endpoint}  (${settings.endpointFrom})`,
      `key       ${masked}  (${settings.apiKeyFrom})`,
    ],
  );
}
