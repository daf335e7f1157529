import { setTimeout as delay } from "node:timers/promises";
import type { Command } from "commander";
import type { Client, Deployment, PromotionView } from "@platform/sdk";
import { withClient, type Context } from "../context.ts";
import { CliError } from "../failure.ts";
import { table } from "../output.ts";
import { parseCount } from "../pairs.ts";

const lookMs = 500;
const over = ["succeeded", "failed", "cancelled"];
const which = "id, slug or name";

/** How a deployment runs and how its traffic moves. */
export function addRollout(deploy: Command, context: () => Context): void {
  const run = (work: (client: Client) => Promise<void>) => withClient(context(), work);
  const idOf = async (client: Client, name: string) => (await client.deployments.find(name)).id;
  deploy
    .command("status")
    .description("what serves, its instances, and what waits to serve")
    .argument("<deployment>", which)
    .action((name: string) => run((client) => status(context(), client, name)));
  deploy
    .command("logs")
    .description("lines of all instances, also of those that are gone")
    .argument("<deployment>", which)
    .option("--lines <count>", "", parseCount, 100)
    .option("-f, --follow", "go on with what comes")
    .option("--search <words>", "only lines that hold this")
    .action((name: string, options: { lines: number; follow?: boolean; search?: string }) =>
      run((client) => logs(context(), client, name, options)),
    );
  deploy
    .command("scale")
    .description("how many instances serve")
    .argument("<deployment>", which)
    .argument("[instances]", "", parseCount)
    .option("--to-zero", "sleep without traffic, wake with the first request")
    .option("--always-on", "never sleep")
    .action(
      (name: string, instances: number | undefined, options: { toZero?: boolean; alwaysOn?: boolean }) =>
        run(async (client) => {
          const settings = {
            ...(instances === undefined ? {} : { instances }),
            ...(options.toZero ? { scale_to_zero: true } : {}),
            ...(options.alwaysOn ? { scale_to_zero: false } : {}),
          };
          const changed = await client.deployments.update(await idOf(client, name), { settings });
          context().output.result(changed, `${name}: ${instances ?? "as many as before"}`);
        }),
    );
  deploy
    .command("promote")
    .description("move traffic to a release; nothing is built")
    .argument("<deployment>", which)
    .argument("<release>")
    .option("--canary <percent>", "first to a part of the requests", Number)
    .option("--step <seconds>", "how long that part is watched", parseCount, 60)
    .option("--at <time>", "not before this time, such as 2027-01-31T06:00:00Z")
    .action((name: string, release: string, options: PromoteFlags) =>
      run((client) => promote(context(), client, name, release, options)),
    );
  deploy
    .command("approve")
    .description("approve the promote that waits; by another key than the one that asked")
    .argument("<deployment>", which)
    .argument("[promotion]", "if several wait")
    .action((name: string, promotion?: string) =>
      run(async (client) => {
        const id = await idOf(client, name);
        const found = await openOne(client, id, promotion, ["awaiting_approval"]);
        const digest = found.artifact_sha256 === null ? {} : { artifact_sha256: found.artifact_sha256 };
        const approved = await client.deployments.approve(id, found.id, digest);
        context().output.result(approved, `approved ${found.artifact_sha256 ?? found.release_id}`);
      }),
    );
  deploy
    .command("cancel")
    .description("cancel the promote that runs or waits")
    .argument("<deployment>", which)
    .argument("[promotion]", "if several wait")
    .action((name: string, promotion?: string) =>
      run(async (client) => {
        const id = await idOf(client, name);
        const wanted = ["running", "queued", "scheduled", "awaiting_approval"];
        const found = await openOne(client, id, promotion, wanted);
        context().output.result(await client.deployments.cancel(id, found.id), `cancelled ${found.id}`);
      }),
    );
  deploy
    .command("rollback")
    .description("move traffic to the version before, or to the one named")
    .argument("<deployment>", which)
    .argument("[version]", "version or release id")
    .option("--to <version>", "the same")
    .action((name: string, version: string | undefined, options: { to?: string }) =>
      run((client) => rollback(context(), client, name, options.to ?? version)),
    );
  addKeeping(deploy, context, run, idOf);
}

function addKeeping(
  deploy: Command,
  context: () => Context,
  run: (work: (client: Client) => Promise<void>) => Promise<void>,
  idOf: (client: Client, name: string) => Promise<string>,
): void {
  deploy
    .command("pin")
    .description("keep a release whatever the retention rules say")
    .argument("<deployment>", which)
    .argument("<release>")
    .option("--reason <text>")
    .option("--remove", "let the rules decide again")
    .action((name: string, release: string, options: { reason?: string; remove?: boolean }) =>
      run(async (client) => {
        const id = await idOf(client, name);
        const kept = options.remove
          ? await client.deployments.unpin(id, release)
          : await client.deployments.pin(id, release, options.reason);
        context().output.result(kept, `${release} ${options.remove ? "follows the rules" : "is kept"}`);
      }),
    );
  deploy
    .command("maintenance")
    .description("a page instead of the app (on), requests that wait (hold), or the app (off)")
    .argument("<deployment>", which)
    .argument("<mode>", "on, hold or off")
    .option("--message <text>")
    .action((name: string, mode: string, options: { message?: string }) =>
      run(async (client) => {
        if (mode !== "on" && mode !== "hold" && mode !== "off")
          throw new CliError("INVALID_MODE", `"${mode}" is no mode.`, "Say on, hold or off.");
        const id = await idOf(client, name);
        context().output.result(
          await client.deployments.maintenance(id, mode, options.message),
          `maintenance ${mode}`,
        );
      }),
    );
}

async function status(context: Context, client: Client, name: string): Promise<void> {
  const deployment = await client.deployments.find(name);
  const [instances, promotions] = await Promise.all([
    client.deployments.instances(deployment.id),
    client.deployments.promotions(deployment.id),
  ]);
  const open = promotions.filter((one) => !over.includes(one.state));
  context.output.result({ deployment, instances, promotions }, [
    `${deployment.name}  ${deployment.state}`,
    `url     ${deployment.public_url ?? "-"}`,
    `serves  ${deployment.active_release_id ?? "nothing"}`,
    ...(deployment.error_message ? [`error   ${deployment.error_message}`] : []),
    ...open.map((one) => `${one.kind}  ${one.state}  ${one.release_id}${partOf(one)}`),
    ...table(
      ["INSTANCE", "RELEASE", "STATE", "RESTARTS"],
      instances.map((one) => [one.id, one.release_id, one.verdict ?? one.state, String(one.restart_count)]),
    ),
  ]);
}

const partOf = (one: PromotionView): string => (one.canary ? `  ${one.canary.percent} %` : "");

async function logs(
  context: Context,
  client: Client,
  name: string,
  options: { lines: number; follow?: boolean; search?: string },
): Promise<void> {
  const { id } = await client.deployments.find(name);
  const filter = options.search ? { q: options.search } : {};
  if (!options.follow) {
    const lines = await client.deployments.logs(id, options.lines, filter);
    context.output.result({ lines }, lines);
    return;
  }
  for await (const event of client.deployments.followLogs(id, options.lines, filter)) {
    if (event.event !== "log_line") continue;
    const line = JSON.parse(event.data) as { line: string; stream: string };
    context.output.raw(context.output.isJson ? `${event.data}\n` : `${line.line}\n`);
  }
}

interface PromoteFlags {
  readonly canary?: number;
  readonly step: number;
  readonly at?: string;
}

async function promote(
  context: Context,
  client: Client,
  name: string,
  release: string,
  flags: PromoteFlags,
): Promise<void> {
  const { id } = await client.deployments.find(name);
  const step = context.output.step("promote");
  const options = {
    ...(flags.canary ? { canary: { steps: [flags.canary], step_sec: flags.step } } : {}),
    ...(flags.at ? { at: new Date(flags.at).toISOString() } : {}),
  };
  const asked = await client.deployments.promote(id, release, undefined, options);
  if (asked.active_release_id === release) {
    step.done();
    context.output.result(asked, asked.public_url ?? asked.id);
    return;
  }
  const promotion = (await client.deployments.promotions(id)).find((one) => one.release_id === release);
  if (!promotion || promotion.state === "scheduled" || promotion.state === "awaiting_approval") {
    step.done(`promote: ${promotion?.state.replace("_", " ") ?? "asked for"}`);
    context.output.result(promotion ?? asked, promotion?.id ?? asked.id);
    return;
  }
  const deployment = await followPromotion(client, id, promotion.id, (text) => step.note(text));
  step.done();
  context.output.result(deployment, deployment.public_url ?? deployment.id);
}

/** @throws CliError with what ended it */
async function followPromotion(
  client: Client,
  id: string,
  promotionId: string,
  tell: (text: string) => void,
): Promise<Deployment> {
  for (;;) {
    const now = (await client.deployments.promotions(id)).find((one) => one.id === promotionId);
    if (!now || now.state === "succeeded") return client.deployments.find(id);
    if (over.includes(now.state))
      throw new CliError(
        now.error?.code ?? "PROMOTE_FAILED",
        now.error?.message ?? `The promote is ${now.state}.`,
        "Look at it: deploy status.",
      );
    tell(now.canary ? `${now.canary.percent} % of the requests` : now.state);
    await delay(lookMs);
  }
}

async function openOne(
  client: Client,
  id: string,
  named: string | undefined,
  states: readonly string[],
): Promise<PromotionView> {
  const open = (await client.deployments.promotions(id)).filter(
    (one) => states.includes(one.state) && (named === undefined || one.id === named),
  );
  if (open.length === 1) return open[0]!;
  throw open.length === 0
    ? new CliError("NOTHING_WAITS", "No such promote waits or runs.", "Look at them: deploy status.")
    : new CliError(
        "AMBIGUOUS_PROMOTION",
        `${open.length} promotes wait: ${open.map((one) => one.id).join(", ")}.`,
        "Name one.",
      );
}

async function rollback(context: Context, client: Client, name: string, version?: string): Promise<void> {
  const { id } = await client.deployments.find(name);
  const step = context.output.step("rollback");
  const moved = await client.deployments.rollback(id, version);
  if (!moved.active_release_id) {
    throw new CliError(
      "NOTHING_SERVES",
      "No release serves after the rollback.",
      "Look at the releases: deploy show.",
      4,
    );
  }
  const deployment = await client.deployments.waitUntilActive(id, moved.active_release_id);
  step.done();
  context.output.result(deployment, [
    deployment.public_url ?? deployment.id,
    `release ${moved.active_release_id}`,
  ]);
}
