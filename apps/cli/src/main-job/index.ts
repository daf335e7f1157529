import { randomBytes } from "node:crypto";
import { createClient } from "@platform/sdk";
import type { Context } from "../context.ts";
import { formatMs } from "../output.ts";
import type { Platform } from "../up/supervisor.ts";
import { profileOf } from "./app-profile.ts";
import { createDatabase } from "./database-steps.ts";
import { runPath, type Served } from "./main-path.ts";
import { closeProbes, look, withPostgres } from "./probes.ts";
import { Proof, ProofFailedError, refute } from "./proof.ts";
import { Resources } from "./resources.ts";
import { artifactsDirOf } from "./serving-steps.ts";
import type { LinkedDatabase, Run } from "./workbench.ts";

export interface MainJobOptions {
  /** App folder. */
  readonly app: string;
  readonly keepServing: boolean;
  readonly signal: AbortSignal;
  /** Resolves when the user wants to end. */
  readonly stopped: Promise<void>;
}

/**
 * Proves the main path on a running platform, from outside, one line for each claim. What it made is
 * gone when it returns.
 *
 * @returns whether every claim held
 */
export async function runMainJob(
  context: Context,
  platform: Platform,
  options: MainJobOptions,
): Promise<boolean> {
  const startedAt = performance.now();
  const say = (text: string) => context.output.say(text);
  const client = createClient({ baseUrl: platform.apiUrl, apiKey: platform.apiKey });
  const resources = new Resources(client);
  const proof = new Proof(say, options.signal);
  const run: Run = {
    client,
    platform,
    profile: profileOf(options.app),
    proof,
    resources,
    artifactsDir: artifactsDirOf(platform.dataDir),
    suffix: randomBytes(3).toString("hex"),
  };
  let isProved = false;
  let database: LinkedDatabase | null = null;
  let served: Served | null = null;
  try {
    database = run.profile.wantsDatabase ? await createDatabase(run) : null;
    served = await runPath(run, database);
    isProved = true;
    say(`\n${proof.count} claims proved in ${formatMs(performance.now() - startedAt)}.`);
    if (options.keepServing) {
      say(
        `\n  production  ${served.productionUrl}\n  preview     ${served.previewUrl}\n  API         ${platform.apiUrl}\n\nServing until Ctrl-C.`,
      );
      await options.stopped;
    }
  } catch (error) {
    if (!(error instanceof ProofFailedError)) throw error;
    say(`\nLogs: ${platform.dataDir}/logs`);
  } finally {
    const left = await resources.removeAll();
    for (const line of left) say(`✗ could not remove ${line}`);
    if (left.length > 0) isProved = false;
    if (isProved && served) isProved = await proveGone(run, served, database, say);
    await closeProbes();
    await client.close();
  }
  return isProved;
}

/** After the clean-up, from outside: no URL serves the app any more and the credentials are refused. */
async function proveGone(
  run: Run,
  served: Served,
  database: LinkedDatabase | null,
  say: (text: string) => void,
): Promise<boolean> {
  const after = new Proof(say, new AbortController().signal);
  try {
    await after.that("everything that the run made is gone", async () => {
      const production = await look(served.productionUrl);
      if (production.status === 200)
        refute(`${served.productionUrl} still answers 200`, "Delete the deployment by hand.");
      if (database && (await logsIn(database)))
        refute("the database still lets in", "Delete the database by hand.");
      return {
        value: null,
        evidence: `production URL → ${production.status}${database ? ", database login refused" : ""}`,
      };
    });
    return true;
  } catch (error) {
    if (error instanceof ProofFailedError) return false;
    throw error;
  }
}

async function logsIn(database: LinkedDatabase): Promise<boolean> {
  try {
    await withPostgres(database.credentials, (session) => session.query("select 1"));
    return true;
  } catch {
    // Refused, which is what is looked for.
    return false;
  }
}
