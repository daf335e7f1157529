import { rmSync, statfsSync } from "node:fs";
import { waitFor } from "@platform/daemon";
import { HostError, type LoginProof } from "@platform/host-api";
import { isAlive, isPortFree, lastLines, runningServer, startServer, stopServer } from "@platform/postgres";
import type { Authority } from "./authority.ts";
import { serverSettings } from "./cluster.ts";
import { failureOf, loginFailed, save, type Entry } from "./entry.ts";
import { prove, superuserLogin, tenantLogin } from "./login.ts";
import { endProcesses } from "./measure.ts";
import { changePassword } from "./roles.ts";
import { binariesOf } from "./versions.ts";

const startTimeoutMs = 60_000;
const stopTimeoutMs = 20_000;
/** Two log segments: with less a server cannot even recover. */
const leastSpaceBytes = 32 * 1024 * 1024;

/** Makes the pending password the one that holds: safe to run again after a crash at any point. */
export async function settlePassword(entry: Entry, authority: Authority): Promise<LoginProof> {
  const { pendingPassword } = entry.state;
  if (pendingPassword === null) return prove(tenantLogin(entry.state, authority.certificate));
  await changePassword(entry.state, authority.certificate, pendingPassword);
  const proof = await prove(tenantLogin(entry.state, authority.certificate, pendingPassword));
  if (!proof.ok) throw loginFailed(entry, proof);
  save(entry, { password: pendingPassword, pendingPassword: null });
  return proof;
}

/**
 * Adopts the server that runs, or starts one, and logs in; the proof says how that went.
 *
 * @throws HostError `LOGIN_FAILED` with `port_in_use`, `disk_full` or `start_failed` if no server stays up
 */
export async function bringUp(entry: Entry, authority: Authority): Promise<LoginProof> {
  entry.server = runningServer(entry.folders.cluster);
  if (!entry.server) {
    // A stranger on the port would only make each login attempt last until its timeout.
    if (!(await isPortFree(entry.state.port))) throw await failToStart(entry);
    await launch(entry);
  }
  const login = () => prove(tenantLogin(entry.state, authority.certificate));
  let proof: LoginProof;
  if (entry.state.pendingPassword === null) proof = await awaitLogin(entry, login);
  else {
    await awaitLogin(entry, () => prove(superuserLogin(entry.state, authority.certificate)));
    proof = await settlePassword(entry, authority);
  }
  entry.proof = proof;
  if (proof.ok) {
    entry.failure = null;
    entry.failures = 0;
    return proof;
  }
  if (!entry.server || !isAlive(entry.server)) throw await failToStart(entry);
  entry.failure = failureOf(proof);
  return proof;
}

async function failToStart(entry: Entry): Promise<HostError> {
  const failure = await startFailure(entry);
  entry.failure = failure;
  return new HostError(
    "LOGIN_FAILED",
    502,
    `Database ${entry.state.key} does not start. ${failure.detail}`,
    failure,
  );
}

export async function launch(entry: Entry): Promise<void> {
  // What was seen of the process before says nothing about this one.
  entry.proof = null;
  entry.failure = null;
  const { postgres } = await binariesOf(entry.state.spec.version);
  entry.server = await startServer({
    postgres,
    cluster: entry.folders.cluster,
    logFile: entry.folders.logFile,
    uid: entry.state.uid,
    settings: serverSettings(entry.state),
  });
}

/** Why a server that was started is gone again. */
async function startFailure(entry: Entry): Promise<{ reason: string; detail: string }> {
  const { port } = entry.state;
  if (!(await isPortFree(port))) {
    const detail = `Another program listens on 127.0.0.1:${port}. End it; the database then starts by itself.`;
    return { reason: "port_in_use", detail };
  }
  const { bavail, bsize } = statfsSync(entry.folders.root);
  const tail = lastLines(entry.folders.logFile, 3);
  const isFull = bavail * bsize < leastSpaceBytes;
  return { reason: isFull ? "disk_full" : "start_failed", detail: `The server's log ends with: ${tail}` };
}

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
  );
}

export async function halt(entry: Entry): Promise<void> {
  const server = entry.server ?? runningServer(entry.folders.cluster);
  if (server) await stopServer(server, stopTimeoutMs);
  entry.server = null;
  entry.proof = null;
  entry.failure = null;
}

export async function removeDatabase(entry: Entry): Promise<void> {
  await halt(entry);
  const { uid } = entry.state;
  // A killed server leaves workers that end on their own, a little later.
  if (uid !== null) {
    await waitFor("the server's processes to end", () => endProcesses(uid), stopTimeoutMs);
  }
  rmSync(entry.folders.root, { recursive: true, force: true, maxRetries: 10, retryDelay: 50 });
}
