import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type { Boxes } from "../testing-boxes.ts";

const repository = join(import.meta.dirname, "..", "..", "..", "..");
const source = readFileSync(join(repository, "e2e", "full", "releases", "behaving.mjs"), "utf8");

export type Behaviour = "good" | "broken" | "ill" | "crashing";

export interface PublishedRelease {
  readonly name: string;
  readonly releaseId: string;
  readonly versionId: string;
}

export type Json = Record<string, unknown>;

/** A deployment with releases of known behaviour. */
export class BehavingApp {
  readonly platform: Boxes;
  readonly sandboxId: string;
  readonly name: string;
  readonly releases: PublishedRelease[] = [];
  id = "";
  url = "";

  private constructor(platform: Boxes, sandboxId: string, name: string) {
    this.platform = platform;
    this.sandboxId = sandboxId;
    this.name = name;
  }

  static async start(platform: Boxes, name: string): Promise<BehavingApp> {
    const sandboxId = await platform.sandbox({ name });
    await platform.must("POST", `/sandboxes/${sandboxId}/files`, {
      path: "/workspace/server.mjs",
      content: Buffer.from(source).toString("base64"),
    });
    return new BehavingApp(platform, sandboxId, name);
  }

  get host(): string {
    return new URL(this.url).host;
  }

  get path(): string {
    return `/deployments/${this.id}`;
  }

  async publish(behaviour: Behaviour, more: Json & { promote?: boolean } = {}): Promise<PublishedRelease> {
    const name = `${this.name}-${this.releases.length + 1}`;
    const content = JSON.stringify({ name, behaviour });
    await this.platform.must("POST", `/sandboxes/${this.sandboxId}/files`, {
      path: "/workspace/release.json",
      content: Buffer.from(content).toString("base64"),
    });
    const published = await this.platform.must("POST", `/sandboxes/${this.sandboxId}/publish`, {
      ...(this.id === "" ? { name: this.name } : { deployment_id: this.id }),
      ...{ deployment_type: "dynamic", install_command: false, run_command: "node server.mjs" },
      ...{ port: 3000, health_check_path: behaviour === "ill" ? "/" : "/healthz", promote: this.id === "" },
      ...more,
    });
    const deployment = published["deployment"] as Json;
    const release = published["release"] as Json;
    this.id = String(deployment["id"]);
    this.url = String(deployment["public_url"]);
    const made = {
      name,
      releaseId: String(release["id"]),
      versionId: String(release["deployment_version_id"]),
    };
    this.releases.push(made);
    return made;
  }

  get = (): Promise<Json> => this.platform.must("GET", this.path);

  set = (settings: Json): Promise<Json> => this.platform.must("PATCH", this.path, { settings });

  promote = (release: PublishedRelease, options: Json = {}): Promise<Json> =>
    this.platform.must("POST", `${this.path}/releases/${release.releaseId}/promote`, options);

  tryPromote = (release: PublishedRelease, options: Json = {}) =>
    this.platform.api("POST", `${this.path}/releases/${release.releaseId}/promote`, options);

  rollback = (body: Json = {}): Promise<Json> => this.platform.must("POST", `${this.path}/rollback`, body);

  instances = async (): Promise<Json[]> =>
    (await this.platform.must("GET", `${this.path}/runtime-instances`)) as unknown as Json[];

  promotions = async (): Promise<Json[]> =>
    (await this.platform.must("GET", `${this.path}/promotions`)) as unknown as Json[];

  /** The name of the release that answers now. */
  async serves(path = "/"): Promise<string> {
    const { text, status } = await this.platform.fetch(`http://${this.host}${path}`);
    return status === 200 ? (JSON.parse(text) as { release: string }).release : `status ${status}`;
  }

  events = async (type: string): Promise<Json[]> => {
    const all = (await this.platform.must("GET", "/platform-events?limit=200")) as unknown as Json[];
    return all.filter((event) => event["type"] === type && JSON.stringify(event).includes(this.id));
  };
}

/** Asks until `look` says something; its last failure is the reason when it never does. */
export async function eventually<T>(
  what: string,
  look: () => Promise<T | undefined | false | null>,
  timeoutMs = 90_000,
): Promise<T> {
  const endsAt = performance.now() + timeoutMs;
  let last: unknown;
  for (;;) {
    try {
      const found = await look();
      if (found !== undefined && found !== false && found !== null) return found;
    } catch (error) {
      last = error;
    }
    if (performance.now() > endsAt)
      throw new Error(`waited ${timeoutMs} ms in vain for: ${what}`, { cause: last });
    await delay(150);
  }
}
