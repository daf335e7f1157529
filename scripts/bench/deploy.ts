import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Agent, request } from "undici";
import type { OwnPlatform } from "../../e2e/full/own-platform.ts";
import { cutFile, readChunk, writeArchive } from "../../e2e/full/upload/archive.ts";
import { answeringServer, makeAppFolder, until, type Peers } from "./peers.ts";
import { summarise, timed, type Row } from "./timing.ts";

export const deployCounts = {
  releases: 8,
  rollbacks: 20,
  coldRollbacks: 5,
  wakes: 5,
  uploads: 3,
  uploadMb: 128,
};
const startName = "Node server process until HTTP 200";
const uploadLanes = 4;
/** 200 small files and four of 1 MiB. */
const appFiles: Readonly<Record<string, string>> = {
  "server.cjs": answeringServer
    .replace("process.argv[1]", "process.env.PORT")
    .replace('"ok"', 'require("node:fs").readFileSync("release.txt", "utf8")'),
  ...Object.fromEntries(Array.from({ length: 200 }, (_, i) => [`part-${i}.js`, `// ${i}\n`.repeat(200)])),
  ...Object.fromEntries(Array.from({ length: 4 }, (_, i) => [`asset-${i}.txt`, `${i}`.repeat(2 ** 20)])),
};

/** One app with its releases, the newest in service. */
class Bench {
  readonly platform: OwnPlatform;
  readonly sandboxId: string;
  readonly releases: { readonly id: string; readonly versionId: string }[] = [];
  deploymentId = "";
  url = "";

  static async open(platform: OwnPlatform): Promise<Bench> {
    const files = Object.entries(appFiles).map(([name, text]) => [`/workspace/${name}`, text]);
    return new Bench(platform, await platform.sandbox("bench-app", Object.fromEntries(files) as never));
  }

  private constructor(platform: OwnPlatform, sandboxId: string) {
    this.platform = platform;
    this.sandboxId = sandboxId;
  }

  get path(): string {
    return `/deployments/${this.deploymentId}`;
  }

  async edit(): Promise<void> {
    await this.platform.exec(this.sandboxId, `printf release-${this.releases.length} > release.txt`);
  }

  async publish(): Promise<void> {
    const published = await this.platform.must("POST", `/sandboxes/${this.sandboxId}/publish`, {
      ...(this.deploymentId ? { deployment_id: this.deploymentId } : { name: "bench" }),
      ...{ deployment_type: "dynamic", install_command: false, run_command: "node server.cjs" },
      ...{ port: 3000, promote: false },
    });
    const [deployment, release] = [published["deployment"], published["release"]] as Record<string, string>[];
    this.deploymentId = deployment!["id"]!;
    this.url = deployment!["public_url"] ?? this.url;
    this.releases.push({ id: release!["id"]!, versionId: release!["deployment_version_id"]! });
  }

  promote(release = this.releases.at(-1)!): Promise<unknown> {
    return this.platform.must("POST", `${this.path}/releases/${release.id}/promote`, {});
  }

  /** The call, and an answer of that release at the public URL. */
  async rollbackTo(index: number): Promise<void> {
    await this.platform.must("POST", `${this.path}/rollback`, {
      version_id: this.releases[index]!.versionId,
    });
    await this.expect(index);
  }

  /** @throws Error when another release answers, or none */
  async expect(index: number): Promise<void> {
    const { status, text } = await this.platform.visit(this.url);
    if (status !== 200 || text !== `release-${index}`)
      throw new Error(`${status} ${text}, not release ${index}`);
  }

  async set(settings: object): Promise<void> {
    await this.platform.must("PATCH", this.path, { settings });
  }

  async builds(): Promise<number> {
    const { body } = await this.platform.api("GET", `${this.path}/builds`);
    return (body["data"] as unknown[]).length;
  }

  async instances(): Promise<readonly Record<string, unknown>[]> {
    const { body } = await this.platform.api("GET", `${this.path}/runtime-instances`);
    return body["data"] as Record<string, unknown>[];
  }
}

/** Publish, promote and rollback beside the bare tools that do the least of the same. */
export async function measureReleases(platform: OwnPlatform, peers: Peers, isWhole = false): Promise<Row[]> {
  const bench = await Bench.open(platform);
  const folder = makeAppFolder(tmpdir(), appFiles);
  const taken = { publish: [], copy: [], promote: [], rollback: [], start: [] } as Record<string, number[]>;
  try {
    for (let round = 0; round < deployCounts.releases; round++) {
      await bench.edit();
      taken["copy"]!.push(await timed(() => peers.tarAndCopy(folder)));
      taken["publish"]!.push(await timed(() => bench.publish()));
      taken["start"]!.push(await timed(() => peers.serverProcess()));
      taken["promote"]!.push(await timed(() => bench.promote()));
    }
    const last = bench.releases.length - 1;
    const builds = await bench.builds();
    for (let round = 0; round < deployCounts.rollbacks; round++)
      taken["rollback"]!.push(await timed(() => bench.rollbackTo(last - 1 + (round % 2 === 0 ? 0 : 1))));
    if ((await bench.builds()) !== builds) throw new Error("a rollback made a build");
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  const row = (name: string, ours: string, peerName: string, peer: string): Row => ({
    name,
    ours: summarise(taken[ours]!),
    peerName,
    peer: summarise(taken[peer]!),
  });
  const rows = [
    row("publish: sandbox → immutable release", "publish", "`tar` and `cp -a` of the same folder", "copy"),
    row("promote, with a new box", "promote", startName, "start"),
    row("rollback to a warm release, until its answer at the public URL", "rollback", startName, "start"),
  ];
  if (isWhole) rows.push(await measureColdRollback(bench, peers), await measureWake(bench, peers));
  return rows;
}

/** No instance of the wanted release runs: one is started from its bundle, nothing is built. */
async function measureColdRollback(bench: Bench, peers: Peers): Promise<Row> {
  await bench.set({ keep_warm_releases: 0, drain_sec: 0, websocket_drain_sec: 0 });
  const [ours, theirs]: [number[], number[]] = [[], []];
  const builds = await bench.builds();
  for (let round = 0; round < deployCounts.coldRollbacks; round++) {
    const target = bench.releases[bench.releases.length - 3 - round]!;
    await until(async () =>
      (await bench.instances()).every(
        (one) => one["release_id"] !== target.id || one["state"] === "destroyed",
      ),
    );
    theirs.push(await timed(() => peers.serverProcess()));
    ours.push(await timed(() => bench.rollbackTo(bench.releases.indexOf(target))));
  }
  if ((await bench.builds()) !== builds) throw new Error("a rollback made a build");
  return {
    name: "rollback to a release without instances, until its answer",
    ours: summarise(ours),
    peerName: startName,
    peer: summarise(theirs),
  };
}

/** Asleep until the first request, which is held until the app answers it. */
async function measureWake(bench: Bench, peers: Peers): Promise<Row> {
  const [ours, theirs]: [number[], number[]] = [[], []];
  const serving = Number(/\d+/.exec((await bench.platform.visit(bench.url)).text)?.[0]);
  await bench.set({ scale_to_zero: true, idle_sec: 1, trial_sec: 0, stop_grace_sec: 1 });
  for (let round = 0; round < deployCounts.wakes; round++) {
    for (const endsAt = Date.now() + 120_000; ;) {
      const { asleep } = await bench.platform.must("GET", bench.path);
      if (asleep === true) break;
      if (Date.now() > endsAt) throw new Error("the deployment never fell asleep");
      await new Promise((resolve) => setTimeout(resolve, 250));
    }
    theirs.push(await timed(() => peers.serverProcess()));
    ours.push(await timed(() => bench.expect(serving)));
  }
  return {
    name: "first request to a deployment that sleeps, until the app's answer",
    ours: summarise(ours),
    peerName: startName,
    peer: summarise(theirs),
  };
}

/** An archive of noise in chunks of at most 900 KB, four at a time, until the server has put it together. */
export async function measureUpload(platform: OwnPlatform, peers: Peers): Promise<Row> {
  const folder = mkdtempSync(join(tmpdir(), "bench-upload-"));
  const agent = new Agent({ connections: uploadLanes });
  const [ours, theirs]: [number[], number[]] = [[], []];
  try {
    for (let round = 0; round < deployCounts.uploads; round++) {
      const path = join(folder, `${round}.tar`);
      await writeArchive(path, deployCounts.uploadMb, `upload ${round}`, `${round}\n`);
      const file = await cutFile(path);
      const { id } = await platform.must("POST", "/deployments", { name: `bench-upload-${round}` });
      const uploads = `/deployments/${String(id)}/uploads`;
      theirs.push(await timed(() => peers.copyToDisk(path)));
      ours.push(
        await timed(async () => {
          const { sizeBytes: size_bytes, sha256 } = file;
          const chunks = file.chunks.map((one) => ({ sha256: one.sha256, size_bytes: one.size_bytes }));
          const upload = await platform.must("POST", uploads, { size_bytes, sha256, chunks });
          const missing = upload["missing"] as number[];
          const lane = async () => {
            for (let index = missing.shift(); index !== undefined; index = missing.shift()) {
              const answer = await request(
                `${platform.apiUrl}${uploads}/${String(upload["id"])}/chunks/${index}`,
                {
                  method: "PUT",
                  dispatcher: agent,
                  headers: {
                    authorization: `Bearer ${platform.apiKey}`,
                    "content-type": "application/octet-stream",
                  },
                  body: await readChunk(file, index),
                },
              );
              await answer.body.dump();
              if (answer.statusCode !== 200) throw new Error(`chunk ${index}: ${answer.statusCode}`);
            }
          };
          await Promise.all(Array.from({ length: uploadLanes }, lane));
          await platform.must("POST", `${uploads}/${String(upload["id"])}/complete`, {});
        }),
      );
      rmSync(path);
    }
  } finally {
    await agent.close();
    rmSync(folder, { recursive: true, force: true });
  }
  return {
    name: `upload of ${deployCounts.uploadMb} MB that the server has none of`,
    ours: summarise(ours),
    peerName: "`cp` and `sync` of the file",
    peer: summarise(theirs),
  };
}
