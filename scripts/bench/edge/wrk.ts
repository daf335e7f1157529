import { execFile } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";

export interface WrkOptions {
  readonly name: string;
  readonly port: number;
  readonly path: string;
  readonly hosts: readonly string[];
  readonly headers?: Readonly<Record<string, string>>;
  readonly seconds: number;
  readonly connections: number;
  /** For the script and the list of hosts. */
  readonly folder: string;
  /** One host after the other instead of any. */
  readonly inOrder?: boolean;
  /** TLS, and with it a new connection and a whole handshake for each request. */
  readonly handshakes?: boolean;
}

export interface Measured {
  readonly perSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly failed: number;
}

/** Load on one server by Debian's wrk: one thread, connections kept, each request for another host. */
export async function wrk(options: WrkOptions): Promise<Measured> {
  const { port, path, hosts, seconds, connections, folder, inOrder = false, handshakes = false } = options;
  const headers = { ...options.headers, ...(handshakes ? { connection: "close" } : {}) };
  const list = join(folder, "hosts.txt");
  await writeFile(list, hosts.join("\n"));
  const script = join(folder, "load.lua");
  // The tool adds a host of its own unless it is written as it writes it.
  const fixed = Object.entries(headers).map(([name, value]) => `["${name}"]="${value}"`);
  await writeFile(
    script,
    `local requests, at = {}, 0
init = function()
  for host in io.lines("${list}") do
    requests[#requests + 1] = wrk.format("GET", "${path}", {${['["Host"]=host', ...fixed].join(", ")}})
  end
  math.randomseed(42)
end
request = function()
  ${inOrder ? "at = at % #requests + 1" : "at = math.random(#requests)"}
  return requests[at]
end
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
`,
  );
  const words = ["-t1", `-c${connections}`, `-d${seconds}s`, "--timeout", "20s", "-s", script];
  const { stdout } = await promisify(execFile)(
    "wrk",
    [...words, handshakes ? `https://localhost:${port}` : `http://127.0.0.1:${port}`],
    {
      timeout: (seconds + 90) * 1_000,
    },
  );
  const found = /^RESULT (\d+) (\d+) (\d+) (\d+) (\d+)$/m.exec(stdout);
  if (!found) throw new Error(`wrk said nothing about ${options.name}: ${stdout}`);
  const [requests, us, p50, p99, failed] = found.slice(1).map(Number) as [
    number,
    number,
    number,
    number,
    number,
  ];
  return { perSecond: requests / (us / 1e6), p50Ms: p50 / 1_000, p99Ms: p99 / 1_000, failed };
}
