import { existsSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type { Command } from "commander";
import { request } from "undici";
import type { Context } from "../context.ts";
import { CliError } from "../failure.ts";
import { table } from "../output.ts";
import { brand } from "../brand.ts";

interface Build {
  readonly key: string;
  readonly state: string;
  readonly digest: string | null;
  readonly failure: { readonly reason: string; readonly detail: string } | null;
}
interface Image {
  readonly name: string | null;
  readonly digest: string | null;
  readonly sizeBytes: number | null;
  readonly isOutdated: boolean;
  readonly build: Build | null;
}
interface Report {
  readonly whyNoBuilds: string | null;
  readonly images: readonly Image[];
}
interface Line {
  readonly seq: number;
  readonly line: string;
}

const pollMs = 1_000;

/** For the operator of this machine: images belong to it, not to a tenant, so its own program is asked. */
export function addImages(program: Command, context: () => Context): void {
  const images = program.command("images").description("images that templates of this machine boot");
  images
    .command("list")
    .alias("ls")
    .option("--data <folder>", "data folder of the running platform")
    .action(async (options: { data?: string }) => {
      const report = (await hostOf(context(), options.data)("GET", "/images")) as Report;
      const rows = report.images.map((one) => [
        one.name ?? "-",
        one.digest?.slice(0, 19) ?? "-",
        one.sizeBytes === null ? "-" : `${Math.round(one.sizeBytes / 1024 / 1024)} MiB`,
        one.digest === null ? (one.build?.state ?? "missing") : one.isOutdated ? "outdated" : "ready",
      ]);
      context().output.result(report, table(["NAME", "DIGEST", "SIZE", "STATE"], rows));
      if (report.whyNoBuilds) context().output.say(report.whyNoBuilds);
    });
  images
    .command("build")
    .description("build an image of the platform's own and follow its log")
    .argument("[name]", "", "standard")
    .option("--data <folder>", "data folder of the running platform")
    .action(async (name: string, options: { data?: string }) => build(context(), name, options.data));
}

type Ask = (method: "GET" | "PUT", path: string, body?: unknown) => Promise<unknown>;

/** @throws CliError NOT_RUNNING unless a platform runs on the data folder */
function hostOf(context: Context, data: string | undefined): Ask {
  const folder = resolve(context.cwd, data ?? join(context.repository, ".data"));
  const notRunning = (cause?: unknown) =>
    new CliError(
      "NOT_RUNNING",
      `No platform runs on ${folder}.`,
      `Start it with \`${brand.command} up\`, or give its --data.`,
      2,
      { cause },
    );
  if (!existsSync(join(folder, "ports.json"))) throw notRunning();
  const read = (name: string) =>
    JSON.parse(readFileSync(join(folder, name), "utf8")) as Record<string, unknown>;
  const { host: port } = read("ports.json");
  const { hostToken } = read("secrets.json");
  return async (method, path, body) => {
    const response = await request(`http://127.0.0.1:${String(port)}${path}`, {
      method,
      headers: { authorization: `Bearer ${String(hostToken)}`, "content-type": "application/json" },
      body: body === undefined ? null : JSON.stringify(body),
    }).catch((cause: unknown) => {
      throw notRunning(cause);
    });
    const answer = (await response.body.json()) as { error?: { code: string; message: string } };
    if (answer.error)
      throw new CliError(answer.error.code, answer.error.message, "Correct it and try again.");
    return answer;
  };
}

async function build(context: Context, name: string, data: string | undefined): Promise<void> {
  const ask = hostOf(context, data);
  const key = `builtin-${name}-${Date.now()}`;
  await ask("PUT", `/image-builds/${key}`, { source: { type: "builtin", name } });
  let after = 0;
  for (;;) {
    const state = (await ask("GET", `/image-builds/${key}`)) as Build;
    const { lines } = (await ask("GET", `/image-builds/${key}/logs?after=${after}`)) as { lines: Line[] };
    for (const { seq, line } of lines) {
      after = seq;
      context.output.say(line);
    }
    if (lines.length > 0) continue;
    if (state.state === "ready")
      return context.output.result(state, `image ${name} is ready: ${state.digest}`);
    if (state.state === "failed" || state.state === "cancelled")
      throw new CliError(
        (state.failure?.reason ?? state.state).toUpperCase(),
        state.failure?.detail ?? `The build was ${state.state}.`,
        "The log above says more.",
      );
    await delay(pollMs);
  }
}
