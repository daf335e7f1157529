import type { Command } from "commander";
import { withClient, type Context } from "../context.ts";
import { table } from "../output.ts";
import { parseCount } from "../pairs.ts";
import { addAccess } from "./database-access.ts";
import { addUpgrade } from "./database-upgrade.ts";

interface CreateOptions {
  readonly engine: string;
  readonly engineVersion?: string;
  readonly storage?: number;
  readonly memory?: number;
  readonly wait: boolean;
}

export function addDatabase(program: Command, context: () => Context): void {
  const database = program.command("db").description("databases");
  database
    .command("create")
    .description("create a database and wait until its credentials log in")
    .argument("<name>")
    .option("--engine <engine>", "postgresql, mysql or redis", "postgresql")
    .option("--engine-version <version>")
    .option("--storage <MiB>", "", parseCount)
    .option("--memory <MiB>", "", parseCount)
    .option("--no-wait", "return at once")
    .action(async (name: string, options: CreateOptions) => create(context(), name, options));
  database
    .command("ls")
    .description("list databases")
    .action(async () => {
      const { output } = context();
      await withClient(context(), async (client) => {
        const all = await client.databases.list();
        const rows = all.map((one) => [
          one.id,
          one.name,
          `${one.engine} ${one.engine_version}`,
          one.state,
          one.connection_test?.status ?? "-",
        ]);
        output.result(all, table(["ID", "NAME", "ENGINE", "STATE", "LOGIN"], rows));
      });
    });
  database
    .command("credentials")
    .description("print the connection URL (a secret)")
    .argument("<database>", "id or name")
    .option("--pooled", "the URL through the pooler, for many short-lived clients")
    .action(async (id: string, options: { pooled?: boolean }) =>
      withClient(context(), async (client) => {
        const { databases } = client;
        const credentials = options.pooled
          ? await databases.pooledCredentials((await databases.find(id)).id)
          : await databases.credentials((await databases.find(id)).id);
        const direct = credentials.recommended_url ?? credentials.url;
        context().output.result(credentials, options.pooled ? credentials.pooled_url! : direct);
      }),
    );
  database
    .command("rotate")
    .description("new credentials; the old ones hold until what is linked has the new ones")
    .argument("<database>", "id or name")
    .option("--overlap <seconds>", "both hold at least for so long", parseCount)
    .action(async (id: string, options: { overlap?: number }) =>
      withClient(context(), async (client) => {
        const { databases } = client;
        const fresh = await databases.rotate((await databases.find(id)).id, options.overlap);
        context().output.result(fresh, fresh.recommended_url ?? fresh.url);
      }),
    );
  database
    .command("backup")
    .description("back up now")
    .argument("<database>", "id or name")
    .action(async (id: string) =>
      withClient(context(), async ({ databases }) => {
        const made = await databases.backup((await databases.find(id)).id);
        context().output.result(made, made.id);
      }),
    );
  database
    .command("backups")
    .description("list backups, and when each was restored as a test")
    .argument("<database>", "id or name")
    .action(async (id: string) =>
      withClient(context(), async ({ databases }) => {
        const all = await databases.backups((await databases.find(id)).id);
        const rows = all.map((one) => [
          one.id,
          one.kind,
          one.reason ? `${one.state} (${one.reason})` : one.state,
          one.size_bytes === null ? "-" : String(one.size_bytes),
          one.inserted_at,
          one.restored_ok_at ?? "-",
        ]);
        context().output.result(all, table(["ID", "KIND", "STATE", "BYTES", "MADE", "RESTORED OK"], rows));
      }),
    );
  database
    .command("restore")
    .description("restore a backup or a moment into a new database and wait until it logs in")
    .argument("<database>", "id or name of the one that was backed up")
    .argument("[backup]", "id")
    .option("--at <time>", "a moment instead of a backup, such as 2026-03-01T12:00:00Z")
    .action(async (id: string, backupId: string | undefined, options: { at?: string }) =>
      withClient(context(), async ({ databases }) => {
        const from = (await databases.find(id)).id;
        const made = options.at
          ? await databases.restoreMoment(from, new Date(options.at).toISOString())
          : await databases.restore(from, backupId ?? "");
        const ready = await databases.waitUntilReady(made.database_id);
        context().output.result(ready, ready.id);
      }),
    );
  database
    .command("branch")
    .description("a new database with the content of this moment")
    .argument("<database>", "id or name")
    .option("--name <name>")
    .action(async (id: string, options: { name?: string }) =>
      withClient(context(), async ({ databases }) => {
        const made = await databases.branch((await databases.find(id)).id, options.name);
        const ready = await databases.waitUntilReady(made.id);
        context().output.result(ready, ready.id);
      }),
    );
  addUpgrade(database, context);
  addAccess(database, context);
  database
    .command("rm")
    .description("delete databases and everything in them")
    .argument("<database...>", "ids or names")
    .action(async (ids: string[]) =>
      withClient(context(), async (client) => {
        const removed: string[] = [];
        for (const one of ids) {
          const { id } = await client.databases.find(one);
          await client.databases.delete(id);
          removed.push(id);
        }
        context().output.result({ removed }, removed);
      }),
    );
}

async function create(context: Context, name: string, options: CreateOptions): Promise<void> {
  await withClient(context, async (client) => {
    const step = context.output.step("database");
    let database = await client.databases.create({
      name,
      engine: options.engine,
      ...(options.engineVersion ? { engine_version: options.engineVersion } : {}),
      ...(options.storage ? { storage_mb: options.storage } : {}),
      ...(options.memory ? { memory_mb: options.memory } : {}),
    });
    if (options.wait) {
      database = await client.databases.waitUntilReady(database.id, { onState: (state) => step.note(state) });
    }
    step.done(`database ${database.state}`);
    context.output.result(database, database.id);
  });
}
