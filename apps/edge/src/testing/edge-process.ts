import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { EDGE_TOKEN } from "./control-plane.ts";
import { HOST_TOKEN } from "./host.ts";

export interface EdgeProcess {
  readonly port: number;
  /** Null unless the settings ask for HTTPS. */
  readonly tlsPort: number | null;
  /** Null unless the settings ask for it. */
  readonly metricsPort: number | null;
  readonly child: ChildProcess;
  /** What it logged so far. */
  log(): string;
  /** SIGTERM, and SIGKILL when that does not end it. */
  stop(): Promise<void>;
  exited: Promise<number | null>;
}

/** The real program, in a clean environment. */
export async function startEdgeProcess(
  controlPlaneUrl: string,
  folder: string,
  settings: Record<string, string> = {},
): Promise<EdgeProcess> {
  const child = spawn(process.execPath, [join(import.meta.dirname, "..", "main.ts")], {
    stdio: ["ignore", "pipe", "pipe"],
    env: {
      PATH: process.env["PATH"] ?? "",
      EDGE_ID: "edge-1",
      EDGE_TOKEN,
      HOST_TOKEN,
      CONTROL_PLANE_URL: controlPlaneUrl,
      EDGE_DATA_DIR: join(folder, "edge"),
      ARTIFACTS_DIR: join(folder, "artifacts"),
      LOG_LEVEL: "debug",
      // The suites are the same for both data planes; another run of them sets this.
      EDGE_DATA_PLANE: process.env["EDGE_TEST_DATA_PLANE"] ?? "node",
      ...settings,
    },
  });
  let log = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => (log += text));
  const exited = once(child, "exit").then(([code]) => code as number | null);
  const stop = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill("SIGTERM");
    const timer = setTimeout(() => child.kill("SIGKILL"), 20_000);
    await exited;
    clearTimeout(timer);
  };
  const lines = createInterface({ input: child.stdout });
  const ready = await Promise.race([once(lines, "line"), exited.then(() => null)]);
  if (!ready) throw new Error(`the edge did not start:\n${log}`);
  const { port, tlsPort, metricsPort } = JSON.parse(String(ready[0])) as {
    port: number;
    tlsPort: number | null;
    metricsPort: number | null;
  };
  return { port, tlsPort, metricsPort, child, log: () => log, stop, exited };
}
