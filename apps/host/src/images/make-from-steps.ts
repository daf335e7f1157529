import { createReadStream } from "node:fs";
import { lstat, open, readdir, rename, rm, link } from "node:fs/promises";
import { join } from "node:path";
import { Deadline } from "@platform/daemon";
import type { ImageLimits, ImageSource, ImageStep } from "@platform/host-api";
import { diskUsage } from "../boxes/index.ts";
import type { Cgroups } from "../drivers/linux/cgroups.ts";
import type { OutboundFactory } from "../outbound/index.ts";
import { readSystem } from "./debian.ts";
import { finishTree } from "./finish.ts";
import { ImageError } from "./image-error.ts";
import type { StoredImage } from "./image-store.ts";
import type { MakeContext } from "./make-builtin.ts";
import { runOrThrow, type LogStream } from "./run-program.ts";
import { firstIdOf, openStepBox, type StepBox } from "./step-box.ts";

type Steps = Extract<ImageSource, { type: "steps" }>;

export interface StepsContext extends MakeContext {
  readonly source: Steps;
  readonly limits: ImageLimits;
  /** The image that `source.from` names. */
  readonly base: StoredImage;
  readonly key: string;
  readonly marker: string;
  readonly tag: string;
  readonly guestFolder: string;
  readonly cgroups: Cgroups;
  readonly outbound: OutboundFactory;
  /** Path of the upload with this key, or `null`. */
  readonly upload: (key: string) => Promise<string | null>;
  readonly onFreeze: () => Promise<void>;
}

const diskCheckMs = 1_000;

/** As root of the box; package managers ask nothing and install where the image's own programs lie. */
const stepEnvironment = {
  ...{ HOME: "/root", USER: "root", LOGNAME: "root", DEBIAN_FRONTEND: "noninteractive" },
  PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
  ...{ PIP_BREAK_SYSTEM_PACKAGES: "1", PIP_ROOT_USER_ACTION: "ignore", PIP_NO_CACHE_DIR: "1" },
  ...{ npm_config_update_notifier: "false", npm_config_fund: "false", npm_config_audit: "false" },
  npm_config_cafile: "/etc/ssl/certs/ca-certificates.crt",
  PIP_CERT: "/etc/ssl/certs/ca-certificates.crt",
};

/**
 * Runs the steps one after the other over a writable copy of the base and freezes the outcome.
 *
 * @throws ImageError `step_failed`, `out_of_memory`, `disk_full`
 */
export async function makeFromSteps(work: string, context: StepsContext): Promise<StoredImage> {
  const { source, store, base, limits, signal, onLine } = context;
  const system = await readSystem(signal);
  const root = store.root(base.digest).folder;
  onLine("system", `starting from ${base.origin} (${base.digest.slice(0, 19)})`);
  const box = await openStepBox({
    ...{
      key: context.key,
      marker: context.marker,
      firstId: firstIdOf(context.tag),
      work,
      base: root,
      limits,
    },
    ...{ guestFolder: context.guestFolder, toolchain: context.toolchain, system },
    ...{ cgroups: context.cgroups, outbound: context.outbound },
  });
  try {
    for (const [index, step] of source.steps.entries())
      await runStep(box, index, step, context, join(work, "layer"));
  } finally {
    await box.close();
  }
  signal.throwIfAborted();
  await context.onFreeze();
  onLine("system", "freezing the tree");
  await flatten(root, work, signal);
  await finishTree(join(work, "root"));
  await shareUnchanged(root, join(work, "root"), signal);
  return store.put(work, { release: base.release, origin: `steps on ${base.digest}` }, signal);
}

/** Writes whole lines, however the output is cut into pieces. */
function lineWriter(stream: LogStream, onLine: MakeContext["onLine"]) {
  let rest = "";
  return {
    add: (text: string) => {
      const lines = (rest + text).split(/\r?\n|\r/);
      rest = (lines.pop() ?? "").slice(-8192);
      for (const line of lines) onLine(stream, line);
    },
    end: () => {
      if (rest !== "") onLine(stream, rest);
    },
  };
}

const filesFolder = "/var/tmp/.step-files";

async function placeFiles(
  box: StepBox,
  upload: string,
  { upload: find, signal }: StepsContext,
): Promise<void> {
  const path = await find(upload);
  if (path === null) {
    const detail = "The uploaded files of a step are gone: they are kept for a day. Upload them again.";
    throw new ImageError("image_not_found", detail);
  }
  await box.guest.writeFile(`${filesFolder}.tar`, createReadStream(path), signal);
}

/** Unpacked in the box, by the box: what a tar may try harms nobody else. Nothing of it stays but what `command` took. */
const withFiles = (command: string): string =>
  `rm -rf ${filesFolder} && mkdir ${filesFolder} && tar -xf ${filesFolder}.tar --no-same-owner -C ${filesFolder} && (
${command}
)
code=$?; rm -rf ${filesFolder} ${filesFolder}.tar; exit $code`;

async function runStep(
  box: StepBox,
  index: number,
  step: ImageStep,
  context: StepsContext,
  layer: string,
): Promise<void> {
  const { source, limits, onLine, cgroups, key } = context;
  const command = typeof step === "string" ? step : step.run;
  onLine("system", `step ${index + 1} of ${source.steps.length}: ${command.split("\n")[0]?.slice(0, 200)}`);
  const oomBefore = await cgroups.oomKills(key);
  const full = new AbortController();
  let usedBytes = 0;
  const watch = setInterval(() => {
    void diskUsage(layer)
      .then((bytes) => {
        usedBytes = bytes;
        if (bytes > limits.diskBytes) full.abort();
      })
      .catch(() => undefined); // A file that went while it was measured; the next look counts.
  }, diskCheckMs);
  const stdout = lineWriter("stdout", onLine);
  const stderr = lineWriter("stderr", onLine);
  const deadline = new Deadline(limits.timeoutMs);
  try {
    if (typeof step !== "string") await placeFiles(box, step.upload, context);
    const result = await box.guest
      .exec(typeof step === "string" ? command : withFiles(command), {
        cwd: source.workdir,
        env: {
          ...stepEnvironment,
          ...source.env,
          ...(typeof step === "string" ? {} : { FILES: filesFolder }),
        },
        timeoutMs: Math.ceil(deadline.remainingMs),
        maxOutputBytes: 4096,
        onStdout: stdout.add,
        onStderr: stderr.add,
        signal: AbortSignal.any([context.signal, full.signal]),
      })
      .finally(() => {
        stdout.end();
        stderr.end();
      });
    if (result.exitCode === 0) return;
    context.signal.throwIfAborted();
    const oomNow = await cgroups.oomKills(key);
    const evidence = {
      step: index + 1,
      command,
      exitCode: result.exitCode,
      output: result.stderr.slice(-2000),
    };
    if (oomBefore !== null && oomNow !== null && oomNow > oomBefore) {
      const detail = `Step ${index + 1} ran out of memory (limit ${limits.memoryBytes} bytes). Ask for more memory.`;
      throw new ImageError("out_of_memory", detail, evidence);
    }
    throw new ImageError(
      "step_failed",
      `Step ${index + 1} ended with ${result.exitCode}. Its output is in the build's log.`,
      evidence,
    );
  } catch (error) {
    if (!full.signal.aborted) throw error;
    const detail = `Step ${index + 1} wrote more than ${limits.diskBytes} bytes. Ask for a larger disk.`;
    throw new ImageError("disk_full", detail, { step: index + 1, usedBytes }, { cause: error });
  } finally {
    clearInterval(watch);
  }
}

/** Copies base and changes together into `root`, in a mount namespace that ends with the copy. */
async function flatten(base: string, work: string, signal: AbortSignal): Promise<void> {
  const script =
    'mount -t overlay -o "userxattr,ro,lowerdir=$1/layer/upper:$2" overlay "$1/merged" && cp -a -- "$1/merged" "$1/root"';
  await runOrThrow(
    "nice",
    ["-n", "10", "unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", work, base],
    { signal },
  );
  await rm(join(work, "layer"), { recursive: true, force: true });
}

const compareBytes = 1 << 20;

async function isSameContent(a: string, b: string): Promise<boolean> {
  const files = [await open(a, "r"), await open(b, "r")] as const;
  try {
    const buffers = [Buffer.alloc(compareBytes), Buffer.alloc(compareBytes)] as const;
    for (;;) {
      const [one, two] = await Promise.all([files[0].read(buffers[0]), files[1].read(buffers[1])]);
      if (one.bytesRead !== two.bytesRead) return false;
      if (one.bytesRead === 0) return true;
      if (!buffers[0].subarray(0, one.bytesRead).equals(buffers[1].subarray(0, two.bytesRead))) return false;
    }
  } finally {
    await Promise.all(files.map((file) => file.close()));
  }
}

/**
 * Puts links to the base's files in place of equal copies, so that a template costs what it adds. Trees
 * are never written to, so a shared file stays what it is.
 */
async function shareUnchanged(base: string, tree: string, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  for (const entry of await readdir(tree, { withFileTypes: true })) {
    const [mine, theirs] = [join(tree, entry.name), join(base, entry.name)];
    const other = await lstat(theirs).catch(() => null);
    if (!other) continue;
    if (entry.isDirectory()) {
      if (other.isDirectory()) await shareUnchanged(theirs, mine, signal);
      continue;
    }
    if (!entry.isFile() || !other.isFile()) continue;
    const own = await lstat(mine);
    const looksSame =
      own.size === other.size &&
      own.mode === other.mode &&
      own.uid === other.uid &&
      own.gid === other.gid &&
      own.mtimeMs === other.mtimeMs;
    if (!looksSame || own.size === 0 || !(await isSameContent(mine, theirs))) continue;
    await link(theirs, `${mine}.shared~`);
    await rename(`${mine}.shared~`, mine);
  }
}
