import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { Client } from "pg";
import { waitFor } from "@platform/daemon";
import { boxProcesses, databaseServers } from "./kill/machine.ts";
import { serves, Walk } from "./kill/path.ts";
import { makeFolders, removeFolders, Server, type Folders } from "./kill/server.ts";

describe("a process that is lost", () => {
  let folders: Folders;
  let server: Server;
  let walk: Walk;
  before(async () => {
    folders = makeFolders();
    server = await Server.start(folders);
    walk = new Walk(server);
    await walk.make("publish");
  });
  after(() => removeFolders(folders, server ?? null));

  test("a database server killed with -9 is back with every committed row", async () => {
    const id = walk.database!.id;
    const { url } = await server.api.get<{ url: string }>(`/databases/${id}/credentials`);
    await withLogin(url, (client) => client.query("create table kept as select 42 as n"));
    const [postmaster] = databaseServers(folders.data);
    process.kill(postmaster!.pid, "SIGKILL");
    await waitFor(
      "the row to be readable",
      async () => {
        const rows = await withLogin(url, (client) => client.query<{ n: number }>("select n from kept"));
        return rows.rows[0]?.n === 42;
      },
      20_000,
      50,
    );
    assert.notEqual(databaseServers(folders.data)[0]?.pid, postmaster!.pid);
    const seen = await server.api.get<{ state: string }>(`/databases/${id}`);
    assert.equal(seen.state, "running");
  });

  test("an app that is killed in production is started again and its URL answers", async () => {
    const box = await servingBox();
    const app = boxProcesses(folders.data, box).find((one) => /^node server\.js/.test(one.command));
    assert.ok(
      app,
      boxProcesses(folders.data, box)
        .map((one) => one.command)
        .join("\n"),
    );
    process.kill(app.pid, "SIGKILL");
    await waitFor(
      "another process of the app",
      () =>
        boxProcesses(folders.data, box).some(
          (one) => /^node server\.js/.test(one.command) && one.pid !== app.pid,
        ),
      20_000,
    );
    await serves(walk.published[0]!.url, "v1");
  });

  test("an instance whose whole box is killed is replaced by exactly one", async () => {
    const box = await servingBox();
    for (const one of boxProcesses(folders.data, box)) {
      // The first may end the others.
      if (isThere(one.pid)) process.kill(one.pid, "SIGKILL");
    }
    await waitFor("another box to serve", async () => (await servingBox()) !== box, 40_000, 100);
    await serves(walk.published[0]!.url, "v1");
    await walk.counted();
    assert.equal((await instances()).length, 1);
  });

  test("a sandbox whose agent is killed says error and why within 20 seconds", async () => {
    const { id } = walk.sandbox!;
    const agent = boxProcesses(folders.data, `sb-${id}`).find((one) =>
      one.command.startsWith("/usr/local/bin/node /opt/agent"),
    );
    assert.ok(
      agent,
      boxProcesses(folders.data, `sb-${id}`)
        .map((one) => one.command)
        .join("\n"),
    );
    process.kill(agent.pid, "SIGKILL");
    const seen = await waitFor(
      "the sandbox to say that it is lost",
      async () => {
        const one = await server.api.get<{ state: string; metadata: { last_error?: { reason: string } } }>(
          `/sandboxes/${id}`,
        );
        return one.state === "running" ? undefined : one;
      },
      20_000,
      250,
    );
    assert.equal(seen.state, "error");
    assert.ok(seen.metadata.last_error?.reason, JSON.stringify(seen.metadata));
  });

  test("all of it can be deleted afterwards and leaves nothing", async () => {
    await walk.delete();
    await walk.gone();
  });

  const instances = async () =>
    (
      await server.api.get<{ id: string; state: string }[]>(
        `/deployments/${walk.published[0]!.deployment.id}/runtime-instances`,
      )
    ).filter((one) => one.state !== "destroyed");

  const servingBox = async () => {
    const healthy = (await instances()).filter((one) => one.state === "healthy");
    assert.equal(healthy.length, 1, JSON.stringify(healthy));
    return `in-${healthy[0]!.id}`;
  };
});

function isThere(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

async function withLogin<T>(url: string, work: (client: Client) => Promise<T>): Promise<T> {
  const plain = new URL(url);
  plain.search = "";
  const client = new Client({ connectionString: plain.href, ssl: { rejectUnauthorized: false } });
  client.on("error", () => undefined); // The failure reaches the awaited call as well.
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}
