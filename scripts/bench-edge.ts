// `npm run bench:edge`: the edge with both data planes beside nginx, HAProxy and Caddy, in one run on one machine.
// `--seconds=5` for each measurement, `--hosts=100000`, `--connections=64`, `--changes=100`; `--write` puts the
// table into docs/benchmarks.md.
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { cpus, loadavg, tmpdir, totalmem } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { buildBundle, openArtifactStore } from "@platform/bundle";
import { authorityName, openAuthority } from "@platform/certificates";
import { waitFor } from "@platform/daemon";
import type { RouteTarget } from "@platform/edge-api";
import { Rig } from "../apps/edge/src/testing/rig.ts";
import { startEdgeProcess, type EdgeProcess } from "../apps/edge/src/testing/edge-process.ts";
import { echoes, startEcho } from "./bench/edge/echo.ts";
import { startOrigin } from "./bench/edge/origin.ts";
import { startCaddy, startHaproxy, startNginx, type Origins, type Peer } from "./bench/edge/peers.ts";
import { Results } from "./bench/edge/results.ts";
import { wrk } from "./bench/edge/wrk.ts";

const option = (name: string, otherwise: number) =>
  Number(process.argv.find((word) => word.startsWith(`--${name}=`))?.split("=")[1] ?? otherwise);
const seconds = option("seconds", 5);
const hostCount = option("hosts", 100_000);
const connections = option("connections", 64);
const changes = option("changes", 100);
const docs = join(import.meta.dirname, "..", "docs", "benchmarks.md");

const hostsOf = (count: number) => Array.from({ length: count }, (_, i) => `h${i}.bench.test`);
const echoHost = "echo.bench.test";
const few = hostsOf(10);
const many = hostsOf(hostCount);

const folder = await mkdtemp(join(tmpdir(), "bench-edge-"));
// nginx reads its files as a user of its own.
await chmod(folder, 0o755);
const closers: (() => Promise<unknown>)[] = [];
const results = new Results();
try {
  await run();
} finally {
  for (const close of closers.reverse()) await close().catch(console.error);
  await rm(folder, { recursive: true, force: true });
}
const text = results.text({
  command: `npm run bench:edge -- --seconds=${seconds} --hosts=${hostCount} --connections=${connections} --changes=${changes}`,
  machine: `${cpus().length} × ${cpus()[0]?.model.trim()}, ${Math.round(totalmem() / 1024 ** 3)} GiB, Node ${process.version}, load ${loadavg()[0]!.toFixed(1)} at its end`,
});
console.log(text);
if (process.argv.includes("--write")) await write(text);

async function run(): Promise<void> {
  const files = join(folder, "files");
  await mkdir(files);
  await writeFile(join(files, "small.css"), "body { margin: 0 }\n".repeat(500));
  await promisify(execFile)("gzip", ["-k", "-9", join(files, "small.css")]);
  const origin = await startOrigin(folder);
  closers.push(() => origin.stop());
  const authority = await openAuthority(join(folder, "authority"), authorityName("Bench"));
  const issued = (await authority.issue("tls.bench.test", ["tls.bench.test", "localhost"]))!;
  const [certificate, key, pem] = ["cert.pem", "key.pem", "both.pem"].map((name) => join(folder, name));
  await writeFile(certificate!, issued.certificate);
  await writeFile(key!, issued.key);
  await writeFile(pem!, `${issued.certificate}\n${issued.key}`);
  const common = { appPort: origin.port, files, pem: pem!, certificate: certificate!, key: key! };

  const echo = await startEcho();
  closers.push(() => echo.stop());
  const tls = (name: string) => ({
    ...{ EDGE_TLS_PORT: "0", TLS_AUTHORITY_DIR: join(folder, name), TLS_AUTHORITY_NAME: "Bench" },
  });
  const rig = await Rig.start({ EDGE_DATA_PLANE: "node", LOG_LEVEL: "warn", ...tls("first") });
  closers.push(() => rig.stop());
  const front = await startEdgeProcess(rig.controlPlane.url, join(folder, "front"), {
    ...{ EDGE_ID: "front", EDGE_DATA_PLANE: "haproxy", LOG_LEVEL: "warn" },
    ARTIFACTS_DIR: join(rig.folder, "artifacts"),
    ...tls("second"),
  });
  closers.push(() => front.stop());
  const digest = await bundle(join(rig.folder, "artifacts"), files);
  const service: RouteTarget = { type: "service", url: `http://127.0.0.1:${origin.port}` };
  const routes = (hosts: readonly string[]) => ({
    ...Object.fromEntries(hosts.map((host) => [host, service])),
    "static.bench.test": { type: "static", digest, spaFallback: false } as RouteTarget,
    [echoHost]: { type: "service", url: `http://127.0.0.1:${echo.port}` } as RouteTarget,
  });

  for (const [label, hosts] of [
    ["10 hosts", few],
    [`${hostCount} hosts`, many],
  ] as const) {
    const version = rig.controlPlane.publish(routes(hosts));
    const isIn = () => rig.controlPlane.acknowledged.filter((one) => one === version).length >= 2;
    await waitFor(`${hosts.length} hosts on both edges`, isIn, 120_000);
    const peers: Peer[] = [await startHaproxy(folder, { ...common, hosts })];
    try {
      peers.push(await startNginx(folder, { ...common, hosts }));
      // One that reads 100,000 names from its configuration is nobody's way to run Caddy.
      if (hosts === few) peers.push(await startCaddy(folder, { ...common, hosts }, hosts));
      const servers = [
        { name: "node edge", port: rig.edge.port, tlsPort: rig.edge.tlsPort! },
        { name: "haproxy edge", port: front.port, tlsPort: front.tlsPort! },
        ...peers,
      ];
      await warm(front, hosts);
      for (const server of servers) {
        const at = { ...server, seconds, connections, folder };
        results.add(`JSON, ${label}`, server.name, await wrk({ ...at, path: "/json", hosts }));
        if (hosts !== few) continue;
        results.add(
          "1 MB bodies",
          server.name,
          await wrk({ ...at, connections: 16, path: "/megabyte", hosts }),
        );
        const shakes = { ...at, port: server.tlsPort, handshakes: true, path: "/json", hosts };
        // The first one of a name is the Node edge's.
        if (server.name === "haproxy edge") await wrk({ ...shakes, seconds: 1 });
        results.add("TLS handshakes, one request each", server.name, await wrk(shakes));
        if (server.name === "haproxy") continue;
        const file = { path: "/small.css", hosts: ["static.bench.test"] };
        results.add("static file, 9.5 KB", server.name, await wrk({ ...at, ...file }));
        const gzip = { ...file, headers: { "accept-encoding": "gzip" } };
        results.add("static file, gzip", server.name, await wrk({ ...at, ...gzip }));
      }
    } finally {
      for (const peer of peers) await peer.stop();
    }
  }
  await measureEchoes(rig, front, { ...common, appPort: echo.port });
  results.addTimes("route change live on both edges", await routeChanges(rig, front));
}

/** Words on WebSockets, there and back. */
async function measureEchoes(rig: Rig, front: EdgeProcess, common: Omit<Origins, "hosts">): Promise<void> {
  const own = join(folder, "echo");
  await mkdir(own);
  const origins = { ...common, hosts: [echoHost] };
  const peers = [await startHaproxy(own, origins), await startNginx(own, origins)];
  peers.push(await startCaddy(own, origins, [echoHost]));
  try {
    await echoes(front.port, echoHost, { seconds: 1, connections: 4 });
    for (const { name, port } of [
      { name: "node edge", port: rig.edge.port },
      { name: "haproxy edge", port: front.port },
      ...peers,
    ])
      results.add("WebSocket echo", name, await echoes(port, echoHost, { seconds, connections }));
  } finally {
    for (const peer of peers) await peer.stop();
  }
}

/** Every host once by the Node edge, after which HAProxy knows where it leads. */
async function warm(front: EdgeProcess, hosts: readonly string[]): Promise<void> {
  await wrk({
    ...{ name: "warm", port: front.port, folder, path: "/json", hosts, connections: 64 },
    seconds: hosts.length > 1_000 ? 20 : 2,
    inOrder: true,
  });
}

async function bundle(artifacts: string, files: string): Promise<string> {
  const store = await openArtifactStore(artifacts);
  const declaration = { kind: "static" as const, startCommand: null, port: null, healthCheckPath: null };
  return (await buildBundle(store, files, { ...declaration, env: [] })).digest;
}

/** From the change's publication by the control plane's side until the last of two edges answers by it. */
async function routeChanges(rig: Rig, front: EdgeProcess): Promise<number[]> {
  const took: number[] = [];
  const ports = [rig.edge.port, front.port];
  for (let i = 0; i < changes; i++) {
    const name = `to-${randomBytes(4).toString("hex")}.bench.test`;
    const startedMs = performance.now();
    rig.controlPlane.publish({ "moving.bench.test": { type: "redirect", hostname: name } });
    const isThere = async (port: number) =>
      waitFor(
        name,
        async () => {
          const answer = await rig.fetch("moving.bench.test", "/", { port });
          return String(answer.headers.location ?? "").includes(name);
        },
        20_000,
        1,
      );
    await Promise.all(ports.map(isThere));
    took.push(performance.now() - startedMs);
  }
  return took;
}

async function write(table: string): Promise<void> {
  const before = await readFile(docs, "utf8");
  const [from, to] = ["<!-- edge results -->", "<!-- /edge results -->"];
  const start = before.indexOf(from) + from.length;
  const end = before.indexOf(to);
  if (end < 0) throw new Error(`docs/benchmarks.md has no ${to}`);
  await writeFile(docs, `${before.slice(0, start)}\n\n${table}\n\n${before.slice(end)}`);
}
