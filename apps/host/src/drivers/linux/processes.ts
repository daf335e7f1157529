import { readdir, readFile } from "node:fs/promises";
import { waitFor } from "@platform/daemon";

/** A process that cannot be mistaken for another one that got its number later. */
export interface ProcessIdentity {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat, clock ticks since boot. */
  readonly startTicks: string;
}

interface Status {
  readonly state: string;
  readonly startTicks: string;
}

async function statusOf(pid: number): Promise<Status | null> {
  let text: string;
  try {
    text = await readFile(`/proc/${pid}/stat`, "latin1");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ESRCH") return null;
    throw error;
  }
  // The name in brackets may hold spaces and brackets itself.
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return { state: fields[0] ?? "", startTicks: fields[19] ?? "" };
}

export async function identify(pid: number): Promise<ProcessIdentity | null> {
  const status = await statusOf(pid);
  return status && status.state !== "Z" ? { pid, startTicks: status.startTicks } : null;
}

/** A zombie has ended: it only waits for its parent to look. */
export async function isAlive(process: ProcessIdentity): Promise<boolean> {
  const status = await statusOf(process.pid);
  return status !== null && status.startTicks === process.startTicks && status.state !== "Z";
}

/** Sends SIGKILL if this very process still runs. */
export async function killProcess(target: ProcessIdentity): Promise<void> {
  if (!(await isAlive(target))) return;
  killNumber(target.pid);
}

export function killNumber(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/** Every running process with `marker` among its arguments, or beginning with it where `prefix` is set. */
export async function findByArgument(
  marker: string,
  prefix = false,
): Promise<{ process: ProcessIdentity; argument: string }[]> {
  const found: { process: ProcessIdentity; argument: string }[] = [];
  for (const name of await readdir("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const commandLine = await readFile(`/proc/${name}/cmdline`, "utf8").catch(() => "");
    if (!commandLine.includes(marker)) continue;
    const argument = commandLine
      .split("\0")
      .find((part) => (prefix ? part.startsWith(marker) : part === marker));
    const process = argument === undefined ? null : await identify(Number(name));
    if (process && argument !== undefined) found.push({ process, argument });
  }
  return found;
}

/**
 * Ends every process of a box that carries the marker or is known by number, and waits for it.
 *
 * @param known processes whose end is the end of all others go first: the search is then not among the thousands of
 * a fork bomb
 * @throws Error when one still runs after ten seconds
 */
export async function endProcesses(
  box: string,
  marker: string,
  known: readonly ProcessIdentity[],
): Promise<void> {
  for (const process of known) await killProcess(process);
  const marked = (await findByArgument(marker)).map(({ process }) => process);
  for (const process of marked) await killProcess(process);
  for (const process of [...known, ...marked]) {
    const what = `process ${process.pid} of box ${box} to end`;
    await waitFor(what, async () => !(await isAlive(process)), 10_000);
  }
}
