import type { Command } from "commander";
import { newIdempotencyKey } from "@platform/sdk";
import { withClient, type Context } from "../context.ts";
import { table } from "../output.ts";

interface Snapshot {
  readonly id: string;
  readonly status: string;
  readonly comment: string | null;
  readonly size_bytes: number | null;
  readonly expires_at: string | null;
  readonly created_at: string;
}

/** Copying a large disk takes a while. */
const snapshotTimeoutMs = 600_000;

/** Pause, resume and snapshots. */
export function addLife(sandbox: Command, context: () => Context): void {
  for (const [action, description] of [
    ["pause", "stop a sandbox's programs until it is wanted again"],
    ["resume", "let a paused sandbox go on"],
  ] as const)
    sandbox
      .command(action)
      .description(description)
      .argument("<sandbox...>", "ids or names")
      .action(async (ids: string[]) => setState(context(), ids, action));
  const snapshot = sandbox.command("snapshot").description("a sandbox's files at one moment");
  snapshot
    .command("create")
    .argument("<sandbox>", "id or name")
    .option("--comment <text>")
    .option("--keep", "never expires")
    .option("--expires <time>", "such as 12h or 14d")
    .action(async (id: string, options: CreateOptions) => create(context(), id, options));
  snapshot
    .command("list")
    .alias("ls")
    .argument("[sandbox]", "id or name; all when left out")
    .action(async (id: string | undefined) => list(context(), id));
  snapshot
    .command("restore")
    .description("put a sandbox back to the files of a snapshot")
    .argument("<sandbox>", "id or name")
    .argument("<snapshot>")
    .action(async (id: string, snapshotId: string) => restore(context(), id, snapshotId));
  snapshot
    .command("delete")
    .alias("rm")
    .argument("<snapshot...>")
    .action(async (ids: string[]) => remove(context(), ids));
}

async function setState(context: Context, ids: string[], action: "pause" | "resume"): Promise<void> {
  await withClient(context, async (client) => {
    const done: { id: string; state: string }[] = [];
    for (const id of ids) {
      const step = context.output.step(`${action} ${id}`);
      const { id: sandboxId } = await client.sandboxes.find(id);
      const { state } = await client.sandboxes[action](sandboxId);
      step.done(`${id} is ${state}`);
      done.push({ id: sandboxId, state });
    }
    context.output.result(
      done,
      done.map(({ id }) => id),
    );
  });
}

interface CreateOptions {
  readonly comment?: string;
  readonly keep?: boolean;
  readonly expires?: string;
}

async function create(context: Context, id: string, options: CreateOptions): Promise<void> {
  await withClient(context, async (client) => {
    const step = context.output.step("snapshot");
    const sandbox = await client.sandboxes.find(id);
    const made = await client.http.json<Snapshot>("POST", `/sandboxes/${sandbox.id}/snapshots`, {
      body: {
        ...(options.comment === undefined ? {} : { comment: options.comment }),
        ...(options.keep ? { keep: true } : {}),
        ...(options.expires === undefined ? {} : { expiration: options.expires }),
      },
      idempotencyKey: newIdempotencyKey(),
      timeoutMs: snapshotTimeoutMs,
    });
    step.done(`snapshot ${made.status}`);
    context.output.result(made, made.id);
  });
}

async function list(context: Context, id: string | undefined): Promise<void> {
  await withClient(context, async (client) => {
    const path =
      id === undefined ? "/snapshots" : `/sandboxes/${(await client.sandboxes.find(id)).id}/snapshots`;
    const all = await client.http.json<Snapshot[]>("GET", path);
    const rows = all.map((one) => [
      ...[one.id, one.status, one.size_bytes === null ? "-" : String(one.size_bytes), one.created_at],
      ...[one.expires_at ?? "never", one.comment ?? ""],
    ]);
    context.output.result(all, table(["ID", "STATUS", "BYTES", "CREATED", "EXPIRES", "COMMENT"], rows));
  });
}

async function restore(context: Context, id: string, snapshotId: string): Promise<void> {
  await withClient(context, async (client) => {
    const step = context.output.step("restore");
    const sandbox = await client.sandboxes.find(id);
    const path = `/sandboxes/${sandbox.id}/restore/${encodeURIComponent(snapshotId)}`;
    const restored = await client.http.json<{ id: string; state: string }>("POST", path, {
      body: {},
      idempotencyKey: newIdempotencyKey(),
      timeoutMs: snapshotTimeoutMs,
    });
    step.done(`sandbox ${restored.state}`);
    context.output.result(restored, restored.id);
  });
}

async function remove(context: Context, ids: string[]): Promise<void> {
  await withClient(context, async (client) => {
    for (const id of ids) await client.http.json("DELETE", `/snapshots/${encodeURIComponent(id)}`);
    context.output.result({ removed: ids }, ids);
  });
}
