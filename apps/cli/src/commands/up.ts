import { join, resolve } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type { Command } from "commander";
import { FolderInUseError } from "@platform/postgres";
import { createClient } from "@platform/sdk";
import type { Context } from "../context.ts";
import { CliError } from "../failure.ts";
import { parsePort } from "../pairs.ts";
import { toBaseUrl } from "../settings.ts";
import type { Platform, PlatformOptions } from "../up/supervisor.ts";

interface ServeOptions {
  readonly data?: string;
  readonly port?: number;
}

interface MainJobOptions extends ServeOptions {
  readonly exit?: boolean;
  readonly serve?: boolean;
  readonly app?: string;
}

export function addUp(program: Command, context: () => Context): void {
  program
    .command("up")
    .description("run the whole platform on this machine until Ctrl-C")
    .option("--data <folder>", "data folder")
    .option("--port <port>", "port of the gateway", parsePort)
    .action(async (options: ServeOptions) => serve(context(), options, false));

  program
    .command("main-job", { hidden: true })
    .option("--exit", "end after the proof")
    .option("--serve", "serve only")
    .option("--app <folder>", "app to prove the main path with")
    .option("--data <folder>", "data folder")
    .option("--port <port>", "port of the gateway", parsePort)
    .action(async (options: MainJobOptions) => {
      if (options.serve) await serve(context(), options, true);
      else await prove(context(), options);
    });
}

function platformOptions(
  context: Context,
  options: ServeOptions,
  { stopBoxesOnExit, mustBuildImages }: Mode,
): PlatformOptions {
  return {
    repository: context.repository,
    dataDir: resolve(context.cwd, options.data ?? join(context.repository, ".data")),
    path: context.environment["PATH"] ?? "/usr/local/bin:/usr/bin:/bin",
    databaseUrl: context.environment["DATABASE_URL"] ?? null,
    edgePort: options.port ?? null,
    stopBoxesOnExit,
    // Beside the toolchain, so that each data folder need not build its own.
    imagesDir: context.environment["IMAGES_DIR"] ?? join(context.repository, ".toolchain", "images"),
    mustBuildImages: mustBuildImages && context.environment["IMAGES_BUILD"] !== "0",
    hostSettings: named(
      context,
      /^(HOST_(POOL_|SPARES_|BOOT_|DRIVERS$)|RUNSC_BIN$|IMAGE_REGISTRIES$|POSTGRES_CLIENT_DIR$)/,
    ),
    objectStoreSettings: named(context, /^OBJECT_STORE_UPSTREAM_/),
    edgeSettings: named(
      context,
      /^(EDGE_(DATA_PLANE|MAX_CONNECTIONS|METRICS_PORT|METRICS_TOKEN|ACCESS_LOG)|TRUST_FORWARDED)$/,
    ),
    controlPlaneSettings: named(
      context,
      /^(BUILD_(MEMORY_BYTES|TIMEOUT_MS)|INSTANCE_MEMORY_BYTES|PRICES|CANARY_EVERY_MS)$/,
    ),
    tenant: {
      name: context.environment["TENANT_NAME"] ?? "ClinicIQ",
      domain: context.environment["TENANT_DOMAIN"] ?? "cliniciq.localhost",
    },
    faultPointsDir: context.environment["FAULT_POINTS_DIR"] ?? null,
    onEvent: (program, event) => {
      if (event.type === "starting") context.output.say(`• ${program}`);
      else if (event.type === "exited") {
        context.output.say(
          `✗ ${program} ended with ${event.signal ?? event.code}; starting it again in ${event.retryInMs} ms`,
        );
      } else if (event.type === "failed") context.output.say(`✗ ${program}: ${event.reason}`);
    },
  };
}

interface Mode {
  /** The main job leaves no process behind; `up` adopts its boxes at the next start. */
  readonly stopBoxesOnExit: boolean;
  /** While it serves there is time to build what templates boot; a proof is over before. */
  readonly mustBuildImages: boolean;
}

async function boot(context: Context, options: ServeOptions, mode: Mode): Promise<Platform> {
  // Only these commands need the server's packages, so only they pay for loading them.
  const { startPlatform } = await import("../up/supervisor.ts");
  try {
    return await startPlatform(platformOptions(context, options, mode));
  } catch (error) {
    if (error instanceof FolderInUseError)
      throw new CliError(
        "DATA_IN_USE",
        error.message,
        `Stop process ${error.owner.pid}, or use another --data.`,
      );
    throw error;
  }
}

async function serve(context: Context, options: ServeOptions, asLine: boolean): Promise<void> {
  const stopped = untilSignal();
  const platform = await boot(context, options, { stopBoxesOnExit: asLine, mustBuildImages: true });
  try {
    const line = {
      api_url: platform.apiUrl,
      api_key: platform.apiKey,
      tenant: platform.tenant.slug,
      edge_http_port: platform.ports.edge,
      edge_https_port: platform.ports["edge-tls"],
      ca_file: platform.authorityFile,
    };
    if (asLine) context.output.raw(`${JSON.stringify(line)}\n`);
    else context.output.result(line, [`API  ${line.api_url}`, `key  ${line.api_key}`, "Ctrl-C ends it."]);
    const watching = new AbortController();
    const watched = tellImageBuilds(context, platform, watching.signal);
    await stopped.signalled;
    watching.abort();
    await watched;
  } finally {
    await platform.stop();
  }
}

const lookEveryMs = 5_000;

/** Says when an image of the templates begins to be built, and how that ended. */
async function tellImageBuilds(context: Context, platform: Platform, signal: AbortSignal): Promise<void> {
  const client = createClient({ baseUrl: toBaseUrl(platform.apiUrl), apiKey: platform.apiKey });
  const told = new Map<string, string>();
  try {
    while (!signal.aborted) {
      const rows = await client.templates().catch(() => []); // A program restarts: the next look tells.
      for (const { image } of rows as readonly {
        image?: { build?: { id: string; state: string } | null };
      }[]) {
        const build = image?.build;
        if (!build || told.get(build.id) === build.state) continue;
        const isOld = !told.has(build.id) && ["ready", "failed", "cancelled"].includes(build.state);
        told.set(build.id, build.state);
        const name = /^builtin-(.+)-\d+$/.exec(build.id)?.[1] ?? build.id;
        if (!isOld) context.output.say(`• image ${name}: ${build.state}`);
      }
      await delay(lookEveryMs, undefined, { signal }).catch(() => undefined); // Aborted: the loop ends.
    }
  } finally {
    await client.close();
  }
}

async function prove(context: Context, options: MainJobOptions): Promise<void> {
  const stopped = untilSignal();
  const app = resolve(context.cwd, options.app ?? join(context.repository, "examples", "clinic-intake"));
  const { runMainJob } = await import("../main-job/index.ts");
  const platform = await boot(context, options, { stopBoxesOnExit: true, mustBuildImages: false });
  try {
    const isProved = await runMainJob(context, platform, {
      app,
      keepServing: !options.exit,
      signal: stopped.signal,
      stopped: stopped.signalled,
    });
    if (!isProved) context.setExitCode(1);
  } finally {
    await platform.stop();
  }
}

/** One Ctrl-C may come twice: from the process group, and passed on by the parent. */
const sameSignalMs = 1_000;

/** The first SIGINT or SIGTERM asks for an orderly end; a later one ends at once. */
function untilSignal(): { signalled: Promise<void>; signal: AbortSignal } {
  const controller = new AbortController();
  const signalled = new Promise<void>((done) =>
    controller.signal.addEventListener("abort", () => done(), { once: true }),
  );
  let firstAt: number | null = null;
  for (const name of ["SIGINT", "SIGTERM"] as const) {
    process.on(name, () => {
      firstAt ??= performance.now();
      if (!controller.signal.aborted) controller.abort();
      else if (performance.now() - firstAt > sameSignalMs) process.exit(130);
    });
  }
  return { signalled, signal: controller.signal };
}

const named = (context: Context, pattern: RegExp): Record<string, string> =>
  Object.fromEntries(
    Object.entries(context.environment).flatMap(([name, value]) =>
      value !== undefined && pattern.test(name) ? [[name, value]] : [],
    ),
  );
