import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import test, { after, before, describe } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import {
  appOf,
  databaseOf,
  programsOf,
  startEdge,
  supervisorOf,
  visit,
  type OwnEdge,
} from "./edges/programs.ts";
import { waitFor } from "./kill/wait.ts";
import { startOwnPlatform, type OwnPlatform } from "./own-platform.ts";

/** Several leases of an edge, which is what an hour is made of. */
const outageMs = 30_000;
const everyMs = 20;

interface Published {
  readonly url: string;
  readonly deploymentId: string;
  /** By the text that a release answers with. */
  readonly releases: Record<string, string>;
}

/** What went wrong among requests that were made all the time. */
class Load {
  requests = 0;
  readonly failures: string[] = [];
  #isOver = false;
  readonly #running: Promise<void>[];

  constructor(port: () => number, wanted: Readonly<Record<string, string>>) {
    this.#running = Object.entries(wanted).map(([url, text]) => this.#run(port, url, text));
  }

  async stop(): Promise<void> {
    this.#isOver = true;
    await Promise.all(this.#running);
  }

  async #run(port: () => number, url: string, text: string): Promise<void> {
    while (!this.#isOver) {
      this.requests++;
      const seen = await visit(port(), url).catch((error: Error) => ({ status: 0, text: error.message }));
      if (seen.status !== 200 || !seen.text.includes(text))
        this.failures.push(`${url}: ${seen.status} ${seen.text}`);
      await delay(everyMs);
    }
  }
}

describe("edges without a control plane", { timeout: 600_000 }, () => {
  let platform: OwnPlatform;
  const edges: OwnEdge[] = [];
  let dynamic: Published;
  let pages: Published;
  let unvisited: Published;
  before(async () => {
    platform = await startOwnPlatform();
    dynamic = await publish("dynamic", "dynamic", ["dynamic-1", "dynamic-2"]);
    pages = await publish("pages", "static", ["pages-1", "pages-2"]);
    unvisited = await publish("unvisited", "static", ["unvisited-1"]);
  });
  after(async () => {
    for (const edge of edges) await edge.stop();
    await platform?.stop();
  });

  async function publish(name: string, kind: "dynamic" | "static", texts: string[]): Promise<Published> {
    const server = readFileSync(join(import.meta.dirname, "releases", "server.mjs"), "utf8");
    const files = kind === "dynamic" ? { "/workspace/server.mjs": server } : {};
    const sandboxId = await platform.sandbox(name, files as Record<string, string>);
    const releases: Record<string, string> = {};
    let deploymentId: string | null = null;
    let url = "";
    for (const text of texts) {
      const file = kind === "dynamic" ? "release.txt" : "index.html";
      await platform.exec(sandboxId, `printf %s ${text} > /workspace/${file}`);
      const run = { run_command: "node server.mjs", port: 3000, health_check_path: "/" };
      const published = await platform.must("POST", `/sandboxes/${sandboxId}/publish`, {
        ...(deploymentId ? { deployment_id: deploymentId } : { name }),
        ...(kind === "dynamic" ? run : {}),
        deployment_type: kind,
        install_command: false,
        promote: true,
      });
      const [deployment, release] = [published["deployment"], published["release"]] as Record<
        string,
        string
      >[];
      deploymentId = deployment!["id"]!;
      url = deployment!["public_url"]!;
      releases[text] = release!["id"]!;
    }
    return { url, deploymentId: deploymentId!, releases };
  }

  const promote = (of: Published, text: string) =>
    platform.must("POST", `/deployments/${of.deploymentId}/releases/${of.releases[text]}/promote`, {});

  test("a silent edge costs a promote its lease, and never serves the old release after it", async () => {
    const like = appOf(platform.dataDir, "edge");
    const folder = join(platform.dataDir, "edge-2");
    const second = await startEdge(like, {
      ...{ EDGE_ID: "second", EDGE_DATA_DIR: folder, EDGE_LISTEN_PORT: "0", EDGE_TLS_PORT: "0" },
    });
    edges.push(second);
    for (const [of, text] of [
      [dynamic, "dynamic-2"],
      [pages, "pages-2"],
    ] as const)
      await waitFor("the second edge", async () => (await second.visit(of.url)).text.includes(text), 30_000);
    process.kill(second.pid, "SIGSTOP");
    // These wait in the stopped edge and are answered when it goes on.
    const waiting = [dynamic, pages].map(({ url }) => second.visit(url));
    await promote(dynamic, "dynamic-1");
    await promote(pages, "pages-1");
    const { promotion } = (await platform.must("GET", `/deployments/${pages.deploymentId}`)) as {
      promotion?: { silent_edges?: string[] };
    };
    if (promotion) assert.deepEqual(promotion.silent_edges, ["second"]);
    assert.match((await platform.visit(pages.url)).text, /pages-1/);
    process.kill(second.pid, "SIGCONT");
    const answers = await Promise.all(waiting);
    for (const { status, text } of answers) {
      assert.ok(!text.includes("-2"), `an answer of the release before: ${text}`);
      assert.ok(status === 200 || status === 503, String(status));
    }
    await waitFor("the second edge", async () => (await second.visit(pages.url)).text === "pages-1", 30_000);
    await second.stop();
  });

  test("control plane and database killed with -9 cost no production request, nor does a killed edge after that", async (t) => {
    const { dataDir, edgePort } = platform;
    const supervisor = supervisorOf(dataDir);
    const edge = appOf(dataDir, "edge");
    // Frozen, so that what is killed stays down.
    process.kill(supervisor.pid, "SIGSTOP");
    try {
      const dead = [appOf(dataDir, "control-plane"), databaseOf(dataDir)];
      for (const { pid } of dead) process.kill(pid, "SIGKILL");
      const wanted = { [dynamic.url]: "dynamic-1", [pages.url]: "pages-1" };
      const load = new Load(() => edgePort, wanted);
      await delay(outageMs);
      await load.stop();
      assert.deepEqual(load.failures, []);
      assert.deepEqual(await platform.visit(unvisited.url), { status: 200, text: "unvisited-1" });
      assert.ok(
        !programsOf(dataDir).some(({ words }) => words.some((word) => word.includes("apps/control-plane"))),
        "the control plane is still down",
      );

      process.kill(edge.pid, "SIGKILL");
      await waitFor("the end of the edge", () => !isRunning(edge.pid), 10_000);
      const again = await startEdge(edge, {});
      edges.push(again);
      assert.equal(again.port, edgePort);
      for (const [url, text] of [...Object.entries(wanted), [unvisited.url, "unvisited-1"] as const])
        assert.match((await again.visit(url)).text, new RegExp(text));
      t.diagnostic(
        `restarted edge ready ${Math.round(again.readyMs)} ms after its start, load ${load.requests} requests`,
      );
      const later = new Load(() => edgePort, wanted);
      await delay(outageMs / 3);
      await later.stop();
      assert.deepEqual(later.failures, []);
    } finally {
      for (const one of edges) await one.stop();
      process.kill(supervisor.pid, "SIGCONT");
    }
  });
});

/** A zombie of a frozen parent has ended too. */
function isRunning(pid: number): boolean {
  try {
    return !/^\d+ \(.*\) Z/s.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch {
    return false;
  }
}
