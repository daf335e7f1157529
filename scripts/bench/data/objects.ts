import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { closeSync, fsyncSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import { Agent, request } from "undici";
import type { OwnPlatform } from "../../../e2e/full/own-platform.ts";
import { summarise, timed, type Row } from "../timing.ts";
import type { BareServers } from "./bare.ts";

const kib = 1024;
const mib = 1024 * kib;
const sizes = [
  { name: "4 KiB", bytes: 4 * kib, rounds: 300 },
  { name: "1 MiB", bytes: mib, rounds: 60 },
  { name: "64 MiB", bytes: 64 * mib, rounds: 5 },
];

interface Signed {
  readonly host: string;
  readonly path: string;
  readonly headers: Record<string, string>;
}

async function presign(platform: OwnPlatform, bucket: string, key: string, method: "GET" | "PUT") {
  const answer = await platform.must("POST", `/storage/buckets/${bucket}/presign`, { key, method });
  const { host, pathname, search } = new URL(String(answer["url"]));
  const headers = (answer["headers"] ?? {}) as Record<string, string>;
  return { host, path: pathname + search, headers } satisfies Signed;
}

/** The object store by its public name, one request after the other on one connection, beside nginx and plain files. */
export async function measureObjects(platform: OwnPlatform, bare: BareServers): Promise<Row[]> {
  const folder = mkdtempSync(join(tmpdir(), "bench-objects-"));
  const agent = new Agent({ connections: 1, pipelining: 1, bodyTimeout: 0, headersTimeout: 0 });
  const bucket = String((await platform.must("POST", "/storage/buckets", { name: "bench-objects" }))["id"]);
  const files = join(folder, "files");
  mkdirSync(files, { mode: 0o755 });
  const nginx = await bare.nginx(files);
  const origin = `http://127.0.0.1:${platform.edgePort}`;
  const send = async (signed: Signed, method: "GET" | "PUT", body?: Buffer) => {
    const { statusCode, body: answer } = await request(origin + signed.path, {
      ...{ method, dispatcher: agent, headers: { ...signed.headers, host: signed.host } },
      ...(body ? { body } : {}),
    });
    const bytes = await drain(answer);
    if (statusCode !== 200) throw new Error(`${method} of an object answered ${statusCode}`);
    return bytes;
  };
  const rows: Row[] = [];
  try {
    for (const { name, bytes, rounds } of sizes) {
      const content = randomBytes(bytes);
      const put = { ours: [] as number[], theirs: [] as number[] };
      const get = { ours: [] as number[], theirs: [] as number[] };
      for (let round = 0; round < rounds; round++) {
        const key = `${bytes}/${round}`;
        const [up, down] = [
          await presign(platform, bucket, key, "PUT"),
          await presign(platform, bucket, key, "GET"),
        ];
        put.theirs.push(await timed(async () => writeDurably(files, `${bytes}-${round}`, content)));
        put.ours.push(await timed(() => send(up, "PUT", content)));
        get.theirs.push(
          await timed(async () => {
            const answer = await request(`http://127.0.0.1:${nginx.port}/${bytes}-${round}`, {
              dispatcher: agent,
            });
            if ((await drain(answer.body)) !== bytes) throw new Error("nginx sent something else");
          }),
        );
        get.ours.push(
          await timed(async () => {
            if ((await send(down, "GET")) !== bytes) throw new Error("the store sent something else");
          }),
        );
      }
      rows.push(
        row(`PUT of ${name}`, put.ours, "a file written with fsync, and its folder", put.theirs),
        row(`GET of ${name}`, get.ours, "nginx, the same file", get.theirs),
      );
    }
  } finally {
    await agent.destroy();
    await nginx.stop();
    rmSync(folder, { recursive: true, force: true });
  }
  return rows;
}

const row = (name: string, ours: number[], peerName: string, theirs: number[]): Row => ({
  ...{ name, peerName },
  ours: summarise(ours),
  peer: summarise(theirs),
});

async function drain(body: AsyncIterable<Uint8Array>): Promise<number> {
  let bytes = 0;
  for await (const part of body) bytes += part.byteLength;
  return bytes;
}

/** As durable as the store is: the file and the folder's entry are on the disk when it ends. */
function writeDurably(folder: string, name: string, content: Buffer): void {
  const file = openSync(join(folder, name), "w", 0o644);
  writeSync(file, content);
  fsyncSync(file);
  closeSync(file);
  const entry = openSync(folder, "r");
  fsyncSync(entry);
  closeSync(entry);
}

/**
 * One object of this many MiB up and down through the public name.
 *
 * @returns a sentence with the most memory that the store and the edge held, by the kernel's account
 */
export async function measureStream(platform: OwnPlatform, megabytes: number): Promise<string> {
  const agent = new Agent({ connections: 1, bodyTimeout: 0, headersTimeout: 0 });
  const origin = `http://127.0.0.1:${platform.edgePort}`;
  const programs = ["object-store", "edge"].map((name) => ({ name, pid: pidOf(platform, name) }));
  try {
    const bucket = String((await platform.must("POST", "/storage/buckets", { name: "bench-stream" }))["id"]);
    const part = randomBytes(mib);
    const up = await presign(platform, bucket, "large", "PUT");
    const before = programs.map(({ pid }) => resetPeak(pid));
    const sent = await timed(async () => {
      const { statusCode, body } = await request(origin + up.path, {
        ...{ method: "PUT", dispatcher: agent },
        headers: { ...up.headers, host: up.host, "content-length": String(megabytes * mib) },
        body: Readable.from(
          (function* () {
            for (let count = 0; count < megabytes; count++) yield part;
          })(),
        ),
      });
      await body.dump();
      if (statusCode !== 200) throw new Error(`the upload answered ${statusCode}`);
    });
    const down = await presign(platform, bucket, "large", "GET");
    const received = await timed(async () => {
      const { statusCode, body } = await request(origin + down.path, {
        ...{ dispatcher: agent, headers: { host: down.host } },
      });
      if (statusCode !== 200 || (await drain(body)) !== megabytes * mib)
        throw new Error("the download is something else");
    });
    const speed = (ms: number) => `${Math.round(megabytes / (ms / 1000))} MiB/s`;
    const grown = programs.map(
      ({ name, pid }, index) =>
        `${name} held ${Math.round(before[index]! / kib)} MiB before and ${Math.round(peakKib(pid) / kib)} at most`,
    );
    return `One object of ${megabytes} MiB: up at ${speed(sent)}, down at ${speed(received)}; ${grown.join(", ")}.`;
  } finally {
    await agent.destroy();
  }
}

/** By the data folder in its environment or words. */
function pidOf(platform: OwnPlatform, program: string): number {
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    const read = (name: string) =>
      existsSync(`/proc/${pid}/${name}`) ? readFileSync(`/proc/${pid}/${name}`, "latin1") : "";
    try {
      if (!read("cmdline").includes(`apps/${program}/src/main.ts`)) continue;
      if ((read("cmdline") + read("environ")).includes(platform.dataDir)) return Number(pid);
    } catch {
      // It ended meanwhile.
    }
  }
  throw new Error(`${program} of this platform is not found`);
}

const peakKib = (pid: number) =>
  Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? Number.NaN);

/** Lets the kernel's count of the most memory begin anew. @returns KiB that it holds now */
function resetPeak(pid: number): number {
  writeFileSync(`/proc/${pid}/clear_refs`, "5");
  return peakKib(pid);
}
