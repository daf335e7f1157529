import { setTimeout as delay } from "node:timers/promises";
import { Deadline } from "@platform/daemon";
import type { GuestClient } from "@platform/guest-protocol";
import { HostError, type ImageCertificate, type ResolvedImageBuildSpec } from "@platform/host-api";
import type { Boxes } from "../boxes/index.ts";
import { ImageError } from "./image-error.ts";
import type { OnLine } from "./run-program.ts";

const mib = 1024 * 1024;
const commandTimeoutMs = 30_000;
const pollMs = 250;

export interface Certification {
  readonly boxes: Boxes;
  /** Of the box that is started and removed again. */
  readonly boxKey: string;
  readonly digest: string;
  readonly spec: ResolvedImageBuildSpec;
  /** Commands that must print something. */
  readonly versions: Readonly<Record<string, string>>;
  readonly signal: AbortSignal;
  readonly onLine: OnLine;
}

/**
 * Starts a real box of the image and uses it: nothing is called ready that did not run.
 *
 * @throws ImageError `boot_failed`, `command_failed`, `not_ready`, `isolation_unavailable`
 */
export async function certify(options: Certification): Promise<ImageCertificate> {
  const { boxes, boxKey, digest, spec, onLine } = options;
  const { check } = spec;
  try {
    onLine("system", "starting a box of the new image");
    const box = await boxes.put(boxKey, {
      purpose: "build",
      minimumIsolation: spec.minimumIsolation,
      template: digest,
      content: { type: "empty" },
      limits: {
        memoryBytes: Math.max(512 * mib, spec.limits.memoryBytes),
        ...{ cpuMillis: 2000, maxProcesses: 512, diskBytes: 1024 * mib },
      },
      env: check.env,
      egress: { mode: "deny-all" },
    });
    const guest = boxes.get(boxKey).guest.client;
    await mustSucceed(guest, "true", options);
    const versions = await readVersions(guest, options);
    await untilReady(guest, options);
    const { driver, level } = box.isolation ?? { driver: "unknown", level: "none" as const };
    onLine("system", `the box answered after ${box.bootMs} ms (${driver})`);
    return { driver, level, bootMs: box.bootMs, at: new Date().toISOString(), versions };
  } catch (error) {
    throw explain(error);
  } finally {
    await boxes.delete(boxKey);
  }
}

function explain(error: unknown): unknown {
  // The agent's refusal to run a command at all: its folder is missing or closed, say.
  if (error instanceof Error && "rawMessage" in error)
    return new ImageError(
      "command_failed",
      `A command cannot be run in a box of this image: ${String(error.rawMessage)}.`,
      {},
      { cause: error },
    );
  if (!(error instanceof HostError)) return error;
  if (error.code === "ISOLATION_UNAVAILABLE")
    return new ImageError("isolation_unavailable", error.message, {}, { cause: error });
  if (error.code !== "BOOT_FAILED" && error.code !== "BOX_FAILED") return error;
  const detail =
    "No box starts from this image: its agent did not answer. The image must be a GNU/Linux system of this " +
    "machine's processor with glibc 2.28 or newer, libstdc++ and /bin/sh.";
  return new ImageError(
    "boot_failed",
    detail,
    { ...error.details, message: error.message },
    { cause: error },
  );
}

async function mustSucceed(guest: GuestClient, command: string, options: Certification): Promise<string> {
  const result = await guest.exec(command, { timeoutMs: commandTimeoutMs, signal: options.signal });
  if (result.exitCode === 0) return result.stdout;
  const output = (result.stderr || result.stdout).trim().slice(-2000);
  throw new ImageError(
    "command_failed",
    `\`${command}\` ${result.timedOut ? "took too long" : `ended with ${result.exitCode}`} in a box of this image.`,
    { command, exitCode: result.exitCode, output },
  );
}

async function readVersions(guest: GuestClient, options: Certification): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const [name, command] of Object.entries(options.versions)) {
    const [line = ""] = (await mustSucceed(guest, command, options)).trim().split("\n");
    found[name] = line.slice(0, 200);
    options.onLine("system", `${name}: ${found[name]}`);
  }
  return found;
}

/** Starts the app of the template and waits until its own test of readiness ends with 0. */
async function untilReady(guest: GuestClient, options: Certification): Promise<void> {
  const { startCommand, readyCommand, workdir, timeoutMs } = options.spec.check;
  if (startCommand !== null) {
    options.onLine("system", `starting: ${startCommand}`);
    await guest.services.put({
      name: "start",
      command: startCommand,
      cwd: workdir,
      env: {},
      restart: "never",
    });
  }
  if (readyCommand === null) return;
  options.onLine("system", `waiting for: ${readyCommand}`);
  const deadline = new Deadline(timeoutMs);
  for (;;) {
    const { exitCode, stdout, stderr } = await guest.exec(readyCommand, {
      ...{ cwd: workdir, timeoutMs: Math.min(commandTimeoutMs, timeoutMs), signal: options.signal },
    });
    if (exitCode === 0) return;
    if (deadline.hasPassed) {
      const log = startCommand === null ? [] : await guest.services.logs("start", 50);
      throw new ImageError(
        "not_ready",
        `\`${readyCommand}\` did not succeed within ${timeoutMs} ms; it last ended with ${exitCode}.`,
        {
          lastOutput: (stderr || stdout).trim().slice(-2000),
          startLog: log.map(({ line }) => line).slice(-50),
        },
      );
    }
    await delay(pollMs, undefined, { signal: options.signal });
  }
}
