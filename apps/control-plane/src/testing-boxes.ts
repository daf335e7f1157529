import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { chmod, mkdir, mkdtemp, realpath, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { Deadline, waitFor } from "@platform/daemon";
import { HostClient } from "@platform/host-api";
import {
  freePort,
  startProgram,
  startPrograms,
  type ApiAnswer,
  type Program,
  type Programs,
} from "./testing-programs.ts";

const repository = join(import.meta.dirname, "..", "..", "..");
const hostToken = "host-token-of-the-test-00002";

/** Why boxes cannot be made here, or `null`. */
export function whyNoBoxes(): string | null {
  const isThere = (process.env["PATH"] ?? "").split(":").some((folder) => existsSync(join(folder, "bwrap")));
  return isThere ? null : "bwrap is not installed: apt-get install bubblewrap";
}

/** All programs with a host that makes real boxes. */
/** Of tests that are about limits, pauses and disks of boxes: only root can make them. */
export const needsGroups: string | false =
  process.getuid?.() === 0 ? false : "needs control groups and disks of its own, which only root can make";

export interface Boxes extends Programs {
  readonly host: HostClient;
  /** Where the host keeps what is its own. */
  readonly hostFolder: string;
  /** Ends the host's process and starts another one on the same data and port. */
  /** By a fault point, or from outside. */
  hostWasKilled(): boolean;
  restartHost(signal: NodeJS.Signals, stopsBoxes?: boolean): Promise<void>;
  /** The control plane kills itself at this point the next time it comes there. */
  armFault(name: string): Promise<void>;
  /** Kills what is left of the control plane and starts another one at the same address. */
  restartControlPlane(): Promise<void>;
  /** A sandbox that answers commands. */
  sandbox(body?: Record<string, unknown>): Promise<string>;
  /** Throws unless the call succeeds; the inside of the answer. */
  must<T = Record<string, unknown>>(method: string, path: string, body?: unknown): Promise<T>;
  /** Asks until `done` holds for the sandbox. */
  until(id: string, what: string, done: (row: Record<string, unknown>) => boolean): Promise<void>;
}

async function buildGuest(folder: string): Promise<void> {
  const build = spawn(process.execPath, [join(repository, "apps/guest/build.ts"), folder], {
    stdio: "inherit",
  });
  const [code] = (await once(build, "exit")) as [number | null];
  if (code !== 0) throw new Error(`the guest agent could not be bundled: exit code ${String(code)}`);
}

/** When the test ends, every box, process, group and folder of it is removed. */
export async function startBoxes(t: TestContext, extra: Record<string, string> = {}): Promise<Boxes> {
  const folder = await mkdtemp(join(tmpdir(), "boxes-test-"));
  await chmod(folder, 0o711);
  const faults = join(folder, "faults");
  const image = join(folder, "guest");
  for (const one of [faults, image]) await mkdir(one);
  await buildGuest(image);
  const hostPort = await freePort();
  const host = new HostClient({ url: `http://127.0.0.1:${hostPort}`, token: hostToken });
  const toolchain = await realpath(join(repository, ".toolchain/node"));
  const launch = (stopsBoxes: boolean) =>
    startProgram(t, "host", {
      HOST_LISTEN_PORT: hostPort,
      HOST_TOKEN: hostToken,
      HOST_DATA_DIR: join(folder, "host"),
      HOST_ID: "test",
      GUEST_IMAGE_DIR: image,
      HOME: folder,
      TOOLCHAIN_DIR: toolchain,
      FAULT_POINTS_DIR: faults,
      HOST_SPARES_MAX: "0",
      HOST_STOP_BOXES_ON_EXIT: stopsBoxes ? "1" : "0",
    });
  let running: Program | null = null;
  const end = async (signal: NodeJS.Signals) => {
    const child = running?.child;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, "exit");
    child.kill(signal);
    await exited;
  };
  let started: Programs | null = null;
  // Registered before any program: hooks run in order, and the host must still answer in this one.
  t.after(async () => {
    await started?.killControlPlanes();
    await Promise.all((await host.boxes()).map((box) => host.deleteBox(box.key)));
    await Promise.all((await host.databases()).map((database) => host.deleteDatabase(database.key)));
    await end("SIGTERM");
    await host.close();
    await rm(folder, { recursive: true, force: true });
  });
  running = await launch(true);
  const controlPort = await freePort();
  const programs = (started = await startPrograms(t, {
    HOST_URL: `http://127.0.0.1:${hostPort}`,
    HOST_TOKEN: hostToken,
    ARTIFACTS_DIR: join(folder, "host", "artifacts"),
    CONTROL_PLANE_PORT: String(controlPort),
    FAULT_POINTS_DIR: faults,
    LOG_LEVEL: process.env["TEST_LOG_LEVEL"] ?? "error",
    ...extra,
  }));
  const must: Boxes["must"] = async <T>(method: string, path: string, body?: unknown) => {
    const deadline = new Deadline(30_000);
    for (;;) {
      const answer = await programs.api(method, path, body);
      // As the published clients do: 503 and a hint say that the same call may succeed.
      const mayRepeat = answer.status === 503 && answer.at("error", "retryable") && !deadline.hasPassed;
      if (!mayRepeat) return insideOf<T>(answer, `${method} ${path}`);
      await delay(200);
    }
  };
  const until: Boxes["until"] = async (id, what, done) => {
    let last: Record<string, unknown> = {};
    await waitFor(
      what,
      async () => {
        const answer = await programs.api("GET", `/sandboxes/${id}`);
        last = answer.status === 200 ? (JSON.parse(answer.text) as Record<string, unknown>) : {};
        return done(last);
      },
      60_000,
    ).catch((cause: unknown) => {
      throw new Error(`${what}: last seen ${JSON.stringify(last)}`, { cause });
    });
  };
  return {
    ...programs,
    host,
    hostFolder: join(folder, "host"),
    must,
    until,
    hostWasKilled: () => running?.child.signalCode === "SIGKILL",
    armFault: (name) => writeFile(join(faults, name), ""),
    restartHost: async (signal, stopsBoxes = true) => {
      await end(signal);
      running = await launch(stopsBoxes);
    },
    restartControlPlane: async () => {
      await programs.killControlPlanes();
      await programs.startControlPlane();
      await waitFor(
        "the API through the edge",
        async () => (await programs.api("GET", "/whoami")).status === 200,
        20_000,
      );
    },
    sandbox: async (body = {}) => {
      const made = await must<{ id: string; ready: boolean }>("POST", "/sandboxes?wait=90", body);
      if (!made.ready) throw new Error(`the sandbox is not ready: ${JSON.stringify(made)}`);
      return made.id;
    },
  };
}

export function insideOf<T>(answer: ApiAnswer, what: string): T {
  if (answer.status >= 300) throw new Error(`${what} answered ${answer.status}: ${answer.text}`);
  const json = (answer.text === "" ? {} : JSON.parse(answer.text)) as { data?: T };
  return json.data ?? (json as T);
}
