import { posix } from "node:path";
import { PlatformError } from "@platform/contract";
import { Signal, type GuestClient } from "@platform/guest-protocol";
import { guestProblem } from "../sandboxes/index.ts";

/** `tar` says so when a file changed while it was read: the archive is whole nevertheless. */
const changedWhileRead = 1;
const explanationBytes = 2_000;

/** Members are named from the folder of a single path, or from the root of several. */
function argumentsOf(paths: readonly string[], isCompressed: boolean): string[] {
  const [only, ...more] = paths;
  const [folder, members] =
    more.length === 0 && only !== "/"
      ? [posix.dirname(only!), [posix.basename(only!)]]
      : ["/", paths.map((path) => path.slice(1))];
  // After `--` a name is a name, whatever it begins with. Links are stored, never followed.
  return [
    "--create",
    ...(isCompressed ? ["--gzip"] : []),
    "--file=-",
    `--directory=${folder}`,
    "--",
    ...members,
  ];
}

/**
 * Runs tar in the sandbox, whose user can read no more than the sandbox's own programs.
 *
 * @returns the archive as it comes, no faster than it is read; `done` rejects when it is not whole
 * @throws PlatformError CONFLICT when the sandbox has no tar
 */
export async function streamTar(
  guest: GuestClient,
  paths: readonly string[],
  options: { isCompressed: boolean; signal: AbortSignal },
): Promise<{ bytes: AsyncGenerator<Uint8Array>; done: Promise<void> }> {
  const events = guest.process
    .start(
      { process: { cmd: "tar", args: argumentsOf(paths, options.isCompressed), envs: {} }, stdin: false },
      { signal: options.signal },
    )
    [Symbol.asyncIterator]();
  const first = await events.next().catch((error: unknown) => {
    const isMissing = (error as { code?: unknown }).code === 3;
    throw isMissing
      ? new PlatformError(
          "CONFLICT",
          "The sandbox has no tar, which makes archives. Install it, or download single files.",
          { cause: error },
        )
      : guestProblem(error, "The archive");
  });
  const started = first.done ? undefined : first.value.event?.event;
  const pid = started?.case === "start" ? started.value.pid : 0;
  options.signal.addEventListener(
    "abort",
    () =>
      void guest.process
        .sendSignal({ process: { selector: { case: "pid", value: pid } }, signal: Signal.SIGKILL })
        .catch(() => undefined), // It ended by itself.
    { once: true },
  );
  const { promise: done, resolve, reject } = Promise.withResolvers<void>();
  done.catch(() => undefined); // Whoever reads the bytes awaits it after them.
  async function* read(): AsyncGenerator<Uint8Array> {
    let said = "";
    for (;;) {
      const next = await events.next();
      if (next.done) return reject(new Error("the archive's end was not seen"));
      const event = next.value.event?.event;
      if (event?.case === "data") {
        const { output } = event.value;
        if (output.case === "stdout") yield output.value;
        else if (output.case === "stderr")
          said = (said + Buffer.from(output.value).toString()).slice(-explanationBytes);
      } else if (event?.case === "end") {
        const { exitCode } = event.value;
        if (exitCode === 0 || exitCode === changedWhileRead) return resolve();
        return reject(new Error(`tar ended with ${exitCode}: ${said}`));
      }
    }
  }
  return { bytes: read(), done };
}
