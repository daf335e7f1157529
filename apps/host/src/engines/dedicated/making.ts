import { chownSync } from "node:fs";
import { dirname } from "node:path";
import { faultPoint } from "@platform/daemon";
import { chownTree } from "@platform/postgres";
import { loginFailed, loginOf, save, type Entry } from "./entry.ts";
import { awaitLogin, halt, launch, type Acting } from "./server.ts";

/** Disks, the data on them, and all of it the server's. */
export async function fill(
  { folders, state }: Entry,
  { limits, kind }: Acting,
  write: () => Promise<void>,
): Promise<void> {
  await limits.makeDisks(folders, state.spec, kind);
  await write();
  if (state.uid === null) return;
  await chownTree(folders.data, state.uid);
  if (!state.hasDisk) return;
  chownSync(dirname(folders.data), state.uid, state.uid);
  if (kind.journalBytes !== null) await chownTree(folders.journalDisk.mount, state.uid);
}

/**
 * The first start of a server, on another port when somebody was faster.
 *
 * @param password of the administrator, until it is set anew
 */
export async function startFirst(
  entry: Entry,
  acting: Acting,
  signal: AbortSignal,
  nextPort: () => Promise<number>,
  password = entry.state.superuserPassword,
): Promise<void> {
  const { kind, authority } = acting;
  for (let attempt = 0; ; attempt++) {
    signal.throwIfAborted();
    await launch(entry, acting);
    const known = { ...entry, state: { ...entry.state, superuserPassword: password } };
    const asked = password === entry.state.superuserPassword ? entry : known;
    const proof = await awaitLogin(entry, () => kind.proveAdministrator(asked, authority));
    if (proof.ok) break;
    await halt(entry, kind);
    if (attempt === 2) throw loginFailed(entry, proof);
    save(entry, { port: await nextPort() });
  }
  faultPoint(`host.${kind.engine}.after-start`);
  signal.throwIfAborted();
}

/** A login and a write with what will be handed out. */
export async function proveFirst(entry: Entry, { kind, authority }: Acting): Promise<void> {
  const proof = await kind.prove(loginOf(entry, authority), true);
  if (!proof.ok) throw loginFailed(entry, proof);
  entry.proof = proof;
}
