import { spawn } from "node:child_process";
import { closeSync, lstatSync, openSync, rmSync, statfsSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { waitFor } from "@platform/daemon";
import { HostError, type LoginProof } from "@platform/host-api";
import {
  identify,
  isAlive,
  isPortFree,
  lastLines,
  serverEnvironment,
  type ProcessIdentity,
} from "@platform/postgres";
import type { Authority } from "./authority.ts";
import { failureOf, loginFailed, loginOf, save, type Entry } from "./entry.ts";
import type { ServerKind } from "./kind.ts";
import type { Account } from "./login.ts";
import type { ServerLimits } from "./limits.ts";
import { endProcesses } from "./measure.ts";

const startTimeoutMs = 60_000;
const stopTimeoutMs = 20_000;
/** With less a server cannot even recover. */
const leastSpaceBytes = 32 * 1024 * 1024;

/** What is needed to act on one server. */
export interface Acting {
  readonly kind: ServerKind;
  readonly limits: ServerLimits;
  readonly authority: Authority;
}

/** Makes the pending account the one that holds: safe to run again after a crash at any point. */
export async function settleAccount(entry: Entry, { kind, authority }: Acting): Promise<LoginProof> {
  const { pendingAccount, username, password, oldAccounts } = entry.state;
  if (pendingAccount === null) return kind.prove(loginOf(entry, authority));
  await kind.addAccount(entry, authority, pendingAccount, "owner");
  const proof = await kind.prove(loginOf(entry, authority, pendingAccount));
  if (!proof.ok) throw loginFailed(entry, proof);
  save(entry, {
    ...pendingAccount,
    pendingAccount: null,
    oldAccounts: [...oldAccounts, { username, password }],
  });
  return proof;
}

/** Shuts out what was handed out before, and proves it. */
export async function dropOldAccounts(entry: Entry, { kind, authority }: Acting): Promise<void> {
  for (const old of entry.state.oldAccounts) {
    await kind.dropAccount(entry, authority, old.username);
    await assertRefused(entry, { kind, authority }, old);
    save(entry, {
      oldAccounts: entry.state.oldAccounts.filter(({ username }) => username !== old.username),
    });
  }
}

/** @throws HostError `LOGIN_FAILED` while the account is still let in */
export async function assertRefused(
  entry: Entry,
  { kind, authority }: Omit<Acting, "limits">,
  account: Account,
): Promise<void> {
  const refused = await kind.prove(loginOf(entry, authority, account));
  if (refused.reason === "auth_failed") return;
  const detail = `the old password was not refused (${refused.reason ?? "it logged in"})`;
  throw new HostError("LOGIN_FAILED", 502, `Database ${entry.state.key}: ${detail}. Try again.`, {
    reason: "old_password_accepted",
  });
}

/**
 * Adopts the server that runs, or starts one, and logs in; the proof says how that went.
 *
 * @throws HostError `LOGIN_FAILED` with `port_in_use`, `disk_full`, `out_of_memory` or `start_failed` if no server stays up
 */
export async function bringUp(entry: Entry, acting: Acting): Promise<LoginProof> {
  const { kind, limits, authority } = acting;
  if (entry.state.hasDisk) await limits.mountDisks(entry.folders, kind.journalBytes !== null);
  entry.server = kind.running(entry);
  if (!entry.server) {
    // A stranger on the port would only make each login attempt last until its timeout.
    if (!(await isPortFree(entry.state.port))) throw await failToStart(entry, acting);
    if (kind.quota !== null) await limits.makeRoom(entry);
    await launch(entry, acting);
  }
  let proof: LoginProof;
  // An upgrade was cut off after it had closed the server.
  if (entry.state.closed) {
    const isThere = await awaitLogin(entry, () => kind.proveAdministrator(entry, authority));
    if (isThere.ok) {
      await kind.majorUpgrade?.open(entry, authority);
      save(entry, { closed: false });
    }
  }
  if (entry.state.pendingAccount === null) {
    proof = await awaitLogin(entry, () => kind.prove(loginOf(entry, authority)));
  } else {
    await awaitLogin(entry, () => kind.proveAdministrator(entry, authority));
    proof = await settleAccount(entry, acting);
  }
  entry.proof = proof;
  if (proof.ok) {
    entry.failure = null;
    entry.failures = 0;
    // A crash between noting and doing must not leave it undone.
    if (kind.quota !== null && entry.state.restricted) await kind.quota.restrict(entry, authority, true);
    return proof;
  }
  if (!entry.server || !isAlive(entry.server)) throw await failToStart(entry, acting);
  entry.failure = failureOf(proof);
  return proof;
}

async function failToStart(entry: Entry, acting: Acting): Promise<HostError> {
  const failure = await startFailure(entry, acting);
  entry.failure = failure;
  return new HostError(
    "LOGIN_FAILED",
    502,
    `Database ${entry.state.key} does not start. ${failure.detail}`,
    failure,
  );
}

/** Starts a server in a session of its own, so that it outlives us. Readiness is a login, the caller's to make. */
export async function launch(entry: Entry, { kind, limits }: Acting): Promise<void> {
  // What was seen of the process before says nothing about this one.
  entry.proof = null;
  entry.failure = null;
  const { state, folders } = entry;
  const command = await kind.command(entry);
  await limits.makeGroup(state);
  entry.oomKills = await limits.oomKills(state.home);
  const log = openSync(folders.logFile, "a", 0o600);
  try {
    const child = spawn(command.program, command.args, {
      cwd: "/",
      env: { ...serverEnvironment, ...command.env },
      ...(command.argv0 === undefined ? {} : { argv0: command.argv0 }),
      detached: true,
      stdio: ["ignore", log, log],
      ...(state.uid === null ? {} : { uid: state.uid, gid: state.uid }),
    });
    await new Promise<void>((resolve, reject) => {
      child.once("spawn", resolve);
      child.once("error", reject);
    });
    child.on("error", () => {
      // Only failures of kill() arrive here once it runs, and servers are signalled by number.
    });
    child.unref();
    const identity = child.pid === undefined ? null : identify(child.pid);
    if (!identity) throw new Error(`The server ended at once. ${lastLines(folders.logFile)}`);
    entry.server = identity;
    await limits.hold(state, identity.pid).catch((error: unknown) => {
      if (isAlive(identity)) throw error;
      entry.server = null;
      throw new Error(`The server ended at once. ${lastLines(folders.logFile)}`, { cause: error });
    });
    // A greedy session shall be ended for memory, not the server that would take all sessions along.
    if (kind.engine === "postgresql") protectFromMemoryKills(identity.pid);
  } finally {
    closeSync(log);
  }
}

function protectFromMemoryKills(pid: number): void {
  try {
    writeFileSync(`/proc/${pid}/oom_score_adj`, "-900");
  } catch {
    // Not ours to lower on this machine, or it is gone already: the server restarts a little more often then.
  }
}

/** Why a server that was started is gone again. */
async function startFailure(entry: Entry, { limits }: Acting): Promise<{ reason: string; detail: string }> {
  const { port, home } = entry.state;
  if (!(await isPortFree(port))) {
    const detail = `Another program listens on 127.0.0.1:${port}. End it; the database then starts by itself.`;
    return { reason: "port_in_use", detail };
  }
  if ((await limits.oomKills(home)) > entry.oomKills)
    return { reason: "out_of_memory", detail: memoryDetail };
  const { bavail, bsize } = statfsSync(entry.folders.root);
  const tail = lastLines(entry.folders.logFile, 3);
  const isFull = bavail * bsize < leastSpaceBytes;
  return { reason: isFull ? "disk_full" : "start_failed", detail: `The server's log ends with: ${tail}` };
}

export const memoryDetail =
  "The kernel ended it at its memory limit. Give it more memory, or ask less of it.";

/** Repeats a login while the server lives and only is not up yet. */
export async function awaitLogin(entry: Entry, login: () => Promise<LoginProof>): Promise<LoginProof> {
  return waitFor(
    `a login to database ${entry.state.key}`,
    async () => {
      const alive = entry.server !== null && isAlive(entry.server);
      const proof = await login();
      if (proof.ok) return proof;
      const isComing = proof.reason === "starting" || proof.reason === "unreachable";
      return alive && isComing ? false : proof;
    },
    startTimeoutMs,
    10,
  );
}

/** Stops the server: its signals one after the other, at last SIGKILL. Resolves when it is gone. */
export async function halt(entry: Entry, kind: ServerKind): Promise<void> {
  const server = entry.server ?? kind.running(entry);
  if (server) await endServer(server, kind.stopSignals);
  entry.server = null;
  entry.proof = null;
  entry.failure = null;
}

async function endServer(server: ProcessIdentity, mild: readonly NodeJS.Signals[]): Promise<void> {
  const signals = [...mild, "SIGKILL" as const];
  for (const signal of signals) {
    if (!isAlive(server)) return;
    try {
      process.kill(server.pid, signal);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
    }
    const share = stopTimeoutMs / signals.length;
    try {
      return void (await waitFor("the server to stop", () => !isAlive(server), share, 10));
    } catch (error) {
      if (signal === "SIGKILL") throw error;
    }
  }
}

export async function removeDatabase(
  entry: Entry,
  { kind, limits }: Omit<Acting, "authority">,
): Promise<void> {
  await halt(entry, kind);
  const { uid, key, home } = entry.state;
  // A killed server leaves workers that end on their own, a little later.
  if (uid !== null) {
    await waitFor("the server's processes to end", () => endProcesses(uid), stopTimeoutMs);
  }
  await limits.removeGroup(home);
  await limits.removeDisks(entry.folders);
  rmSync(entry.folders.root, { recursive: true, force: true, maxRetries: 10, retryDelay: 50 });
  const link = join(dirname(entry.folders.root), key);
  // By the key's name there may also be the folder of a server that this one took the place of.
  if (key !== home && lstatSync(link, { throwIfNoEntry: false })?.isSymbolicLink())
    rmSync(link, { force: true });
}
