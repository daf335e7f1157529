import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { join } from "node:path";
import { readFileSync } from "node:fs";
import { Client } from "pg";
import { waitFor } from "@platform/daemon";
import { ask, type Api } from "./api.ts";
import { boxFolders, boxOwner, databaseFolders, databaseServers, remnants } from "./machine.ts";
import type { Server } from "./server.ts";

export const steps = [
  "database",
  "sandbox",
  "files",
  "service",
  "expose",
  "visit",
  "publish",
  "republish",
  "rollback",
  "delete",
] as const;
export type Step = (typeof steps)[number];

interface Sandbox {
  readonly id: string;
  readonly name: string;
  readonly state: string;
}
interface Database {
  readonly id: string;
  readonly name: string;
  readonly state: string;
  readonly connection_test: { readonly status: string } | null;
}
export interface Deployment {
  readonly id: string;
  readonly name: string;
  readonly state: string;
  readonly active_release_id: string | null;
}
interface Published {
  readonly deployment: Deployment;
  readonly version: { readonly id: string };
  readonly release: { readonly id: string };
  readonly url: string;
}
interface Instance {
  readonly id: string;
  readonly state: string;
}

const appOf = (version: string) =>
  `require("node:http").createServer((_, answer) => answer.end("${version}")).listen(process.env.PORT ?? 3000, "0.0.0.0");\n`;
const manifest = JSON.stringify({ name: "tiny", version: "1.0.0", scripts: { start: "node server.js" } });
const hash = (text: string) => createHash("sha256").update(text).digest("hex");
const base64 = (text: string) => Buffer.from(text).toString("base64");
const readyMs = 60_000;

/** One walk along the main path, each part made once with one key, and everything deleted at the end. */
export class Walk {
  readonly #server: Server;
  readonly #api: Api;
  readonly #isStatic: boolean;
  /** Names and keys of this walk only. */
  readonly name: string;
  readonly owners = new Set<number>();
  database: Database | null = null;
  sandbox: Sandbox | null = null;
  previewUrl: string | null = null;
  published: Published[] = [];

  constructor(server: Server, options: { isStatic?: boolean; name?: string } = {}) {
    this.#server = server;
    this.#api = server.api;
    this.#isStatic = options.isStatic ?? false;
    this.name = options.name ?? `w-${randomBytes(4).toString("hex")}`;
  }

  /** @param before called ahead of each step that is done, and of the deletion at the end */
  async run(upTo: Step, before: (step: Step) => Promise<void> | void): Promise<void> {
    for (const step of steps.slice(0, steps.indexOf(upTo) + 1)) {
      if (step === "delete") break;
      await before(step);
      await this.#do(step);
      this.#noteOwners();
    }
    await this.counted();
    await before("delete");
    await this.delete();
  }

  /** Everything up to a step, nothing deleted. */
  async make(upTo: Exclude<Step, "delete">): Promise<void> {
    for (const step of steps.slice(0, steps.indexOf(upTo) + 1)) {
      if (step !== "delete") await this.#do(step);
      this.#noteOwners();
    }
  }

  /** The same walk against a later start of the same data folder. */
  on(server: Server): Walk {
    const later = new Walk(server, { isStatic: this.#isStatic, name: this.name });
    return Object.assign(later, {
      database: this.database,
      sandbox: this.sandbox,
      previewUrl: this.previewUrl,
      published: this.published,
    });
  }

  async #do(step: Exclude<Step, "delete">): Promise<void> {
    const { name } = this;
    const api = this.#api;
    const sandbox = () => `/sandboxes/${this.sandbox!.id}`;
    const write = (file: string, text: string) =>
      api.post(
        `${sandbox()}/files`,
        { path: `/workspace/${file}`, content: base64(text) },
        `${name}-${file}-${hash(text)}`,
      );
    switch (step) {
      case "database": {
        const made = await api.post<Database>("/databases", { name }, `${name}-database`);
        this.database = await waitFor(
          "the database to run",
          async () => {
            const one = await api.get<Database>(`/databases/${made.id}`);
            assert.notEqual(one.state, "failed", JSON.stringify(one));
            return one.state === "running" && one.connection_test?.status === "ok" ? one : undefined;
          },
          readyMs,
          100,
        );
        return;
      }
      case "sandbox": {
        const body = { name, database: { existing_database_id: this.database!.id } };
        this.sandbox = await api.post<Sandbox>("/sandboxes", body, `${name}-sandbox`);
        await waitFor(
          "the sandbox to run",
          async () => {
            const one = await api.get<Sandbox>(sandbox());
            assert.notEqual(one.state, "error", JSON.stringify(one));
            return one.state === "running";
          },
          readyMs,
          100,
        );
        return;
      }
      case "files": {
        if (this.#isStatic) await write("index.html", "<!doctype html><title>one</title>v1");
        else {
          await write("server.js", appOf("v1"));
          await write("package.json", manifest);
        }
        const ran = await api.post<{ stdout: string; exit_code: number }>(
          `${sandbox()}/exec`,
          { command: 'ls /workspace; test -n "$DATABASE_URL" && echo linked' },
          `${name}-exec`,
        );
        assert.equal(ran.exit_code, 0, JSON.stringify(ran));
        assert.match(ran.stdout, /linked/);
        return;
      }
      case "service":
        await api.post(
          `${sandbox()}/services`,
          {
            name: "web",
            command: this.#isStatic
              ? `node -e 'require("node:http").createServer((_, a) => a.end("v1")).listen(3000, "0.0.0.0")'`
              : "PORT=3000 node server.js",
          },
          `${name}-service`,
        );
        return;
      case "expose":
        this.previewUrl = (
          await api.post<{ url: string }>(`${sandbox()}/expose`, { port: 3000 }, `${name}-expose`)
        ).url;
        return;
      case "visit":
        await serves(this.previewUrl!, "v1");
        return;
      case "publish":
        await this.#publish("publish");
        await serves(this.published[0]!.url, "v1");
        return;
      case "republish":
        await write(
          this.#isStatic ? "index.html" : "server.js",
          this.#isStatic ? "<!doctype html>v2" : appOf("v2"),
        );
        await this.#publish("republish");
        assert.equal(this.published[1]!.url, this.published[0]!.url);
        await serves(this.published[1]!.url, "v2");
        return;
      case "rollback": {
        const id = this.published[0]!.deployment.id;
        await api.post(`/deployments/${id}/rollback`, {}, `${name}-rollback`);
        await serves(this.published[0]!.url, "v1");
        const again = `/deployments/${id}/releases/${this.published[1]!.release.id}/promote`;
        await api.post(again, {}, `${name}-promote`);
        await serves(this.published[0]!.url, "v2");
        return;
      }
    }
  }

  async #publish(what: string): Promise<void> {
    const deployment = this.published[0]?.deployment.id;
    const body = { name: this.name, ...(deployment ? { deployment_id: deployment } : {}) };
    const made = await this.#api.post<Published>(
      `/sandboxes/${this.sandbox!.id}/publish`,
      body,
      `${this.name}-${what}`,
    );
    this.published.push(made);
  }

  #noteOwners(): void {
    for (const key of boxFolders(this.#server.folders.data)) {
      const uid = boxOwner(this.#server.folders.data, key);
      if (uid !== null) this.owners.add(uid);
    }
  }

  /** Each part exists exactly once, in the API and on the machine. */
  async counted(): Promise<void> {
    const api = this.#api;
    const { name } = this;
    const { data } = this.#server.folders;
    const named = async (path: string) =>
      (await api.get<{ name: string }[]>(path)).filter((one) => one.name === name).length;
    assert.equal(await named("/databases?limit=100"), this.database ? 1 : 0, "databases");
    assert.equal(await named("/sandboxes?limit=100"), this.sandbox ? 1 : 0, "sandboxes");
    assert.equal(await named("/deployments?limit=100"), this.published.length > 0 ? 1 : 0, "deployments");
    assert.equal(databaseFolders(data).length, this.database ? 1 : 0, databaseFolders(data).join());
    assert.equal(databaseServers(data).length, this.database ? 1 : 0);
    if (this.sandbox) {
      const services = await api.get<unknown[]>(`/sandboxes/${this.sandbox.id}/services`);
      assert.ok(services.length <= 1, JSON.stringify(services));
      const previews = await api.get<{ port: number }[]>(`/sandboxes/${this.sandbox.id}/previews`);
      // The port's own address and the sandbox's.
      assert.ok(previews.length === (this.previewUrl ? 2 : 0), JSON.stringify(previews));
    }
    const deployment = this.published[0]?.deployment.id;
    if (deployment) {
      for (const kind of ["versions", "releases"]) {
        const rows: unknown[] = await api.get<unknown[]>(`/deployments/${deployment}/${kind}`);
        assert.equal(rows.length, this.published.length, `${kind}: ${JSON.stringify(rows)}`);
      }
      const builds = await api.get<{ state: string }[]>(`/deployments/${deployment}/builds`);
      assert.equal(builds.length, this.published.length, JSON.stringify(builds));
    }
    await waitFor(
      "one box for each live row",
      async () => {
        const instances = deployment
          ? await api.get<Instance[]>(`/deployments/${deployment}/runtime-instances`)
          : [];
        const live = instances.filter((one) => one.state !== "destroyed");
        const wanted = [
          ...(this.sandbox ? [`sb-${this.sandbox.id}`] : []),
          ...live.map((one) => `in-${one.id}`),
        ].sort();
        const found = boxFolders(data).sort();
        // The previous release stays warm beside the one that serves.
        assert.ok(live.length <= 2, `instances: ${JSON.stringify(live)}`);
        assert.deepEqual(found, wanted);
        return true;
      },
      40_000,
      250,
    );
  }

  async delete(): Promise<void> {
    const api = this.#api;
    const deployment = this.published[0]?.deployment.id;
    if (deployment) await api.delete(`/deployments/${deployment}`);
    if (this.sandbox) await api.delete(`/sandboxes/${this.sandbox.id}`);
    if (this.database) await api.delete(`/databases/${this.database.id}`);
  }

  /** Nothing of this walk is left: not on the machine, not as a row that somebody still works on. */
  async gone(): Promise<void> {
    const { data } = this.#server.folders;
    await waitFor(
      "nothing to be left",
      async () => {
        const left = [...remnants(data, this.owners), ...(await rowsLeft(data))];
        assert.deepEqual(left, []);
        return true;
      },
      60_000,
      250,
    ).catch((error: unknown) => {
      throw error instanceof Error && error.cause instanceof Error ? error.cause : error;
    });
    for (const url of [this.previewUrl, this.published[0]?.url]) {
      if (url)
        await waitFor(
          "the URL to serve nothing",
          async () => (await ask(new URL(url))).status >= 400,
          10_000,
        );
    }
  }
}

export async function serves(url: string, text: string): Promise<void> {
  const target = new URL(url);
  await waitFor(
    `${url} to serve ${text}`,
    async () => {
      const answer = await ask(target, { timeoutMs: 5_000 });
      if (answer.status === 200 && answer.text.includes(text)) return true;
      throw new Error(`answered ${answer.status}: ${answer.text.slice(0, 300)}`);
    },
    30_000,
    100,
  ).catch((error: unknown) => {
    const { message, cause } = error as Error;
    throw new Error(`${message}: ${(cause as Error | undefined)?.message}`, { cause });
  });
}

/** Rows of the control plane that are neither at their end nor history, one line each. */
async function rowsLeft(data: string): Promise<string[]> {
  const at = (name: string) => readFileSync(join(data, "postgres", name), "utf8").trim();
  const client = new Client({
    host: "127.0.0.1",
    port: Number(at("port")),
    user: "postgres",
    password: at("password"),
    database: "postgres",
  });
  await client.connect();
  try {
    const { rows } = await client.query<{ line: string }>(`
      select 'sandbox ' || id || ' is ' || state as line from sandboxes where state <> 'destroyed'
      union all select 'database ' || id || ' is ' || state from databases where state <> 'deleted'
      union all select 'deployment ' || id || ' is ' || state from deployments where state <> 'deleted'
      union all select 'instance ' || id || ' is ' || state from instances where state <> 'destroyed'
      union all select 'build ' || id || ' is ' || state from builds where state in ('queued', 'building')
      union all select 'release ' || id || ' is ' || state from releases where state = 'pending'
      union all select 'version ' || id || ' is ' || state from versions where state in ('created', 'building')
      union all select 'preview ' || hostname from previews
      union all select 'route ' || hostname from routes where target is not null and kind in ('preview', 'deployment')
      union all select 'link of ' || resource_type || ' ' || resource_id from database_links
      union all select 'unanswered ' || method || ' ' || path || ' ' || key from idempotency where status is null
      union all select 'doubled sandbox ' || name from sandboxes group by name having count(*) > 1
      union all select 'doubled database ' || name from databases group by name having count(*) > 1
      union all select 'doubled deployment ' || name from deployments group by name having count(*) > 1`);
    return rows.map((row) => row.line);
  } finally {
    await client.end();
  }
}
