import { createClient, type Client } from "@platform/sdk";
import { brand } from "./brand.ts";
import type { Output } from "./output.ts";
import { resolveSettings, toBaseUrl, type Environment } from "./settings.ts";

/** What every command gets. */
export interface Context {
  readonly environment: Environment;
  readonly output: Output;
  readonly stdin: NodeJS.ReadStream;
  readonly cwd: string;
  readonly repository: string;
  readonly flags: { readonly endpoint?: string; readonly debug: boolean };
  readonly setExitCode: (code: number) => void;
}

/** Runs `work` with a client of the settings in force, and closes its connections. */
export async function withClient<T>(context: Context, work: (client: Client) => Promise<T>): Promise<T> {
  const settings = resolveSettings(context.environment, context.flags);
  const client = createClient({
    baseUrl: toBaseUrl(settings.endpoint),
    apiKey: settings.apiKey,
    userAgent: `${brand.command}-cli`,
  });
  try {
    return await work(client);
  } finally {
    await client.close();
  }
}
