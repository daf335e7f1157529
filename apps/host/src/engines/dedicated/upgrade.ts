import { faultPoint } from "@platform/daemon";
import { HostError, type HostedDatabase } from "@platform/host-api";
import type { EngineSpec } from "../engine.ts";
import type { DatabaseState } from "./database-state.ts";
import { loginFailed, loginOf, save, type Entry } from "./entry.ts";
import { proveFirst, startAndFurnish } from "./making.ts";
import { awaitLogin, bringUp, halt, launch, type Acting } from "./server.ts";
import type { ServerLimits } from "./limits.ts";
import { newAccount } from "./users.ts";

/** What the workshop lends to upgrades. */
export interface Upgrading {
  readonly entries: Map<string, Entry>;
  reserve(home: string, spec: EngineSpec, version: string, limits: ServerLimits): Promise<Entry>;
  prepare(entry: Entry, acting: Acting): Promise<void>;
  freePort(): Promise<number>;
  remove(entry: Entry, acting: Acting): Promise<void>;
  stopPool(entry: Entry): Promise<void>;
  settlePool(entry: Entry, acting: Acting): Promise<void>;
}

/** Under which key the server waits that a database had before its upgrade. */
export const keyBefore = (key: string) => `${key.slice(0, 54)}--before`;
const homeOf = (key: string, version: string) => `${key.slice(0, 54)}--v${version}`;

const accountsOf = ({ username, password, oldAccounts, users }: DatabaseState) => ({
  ...{ username, password, oldAccounts, users },
});

/** What clients know a server by: it goes to the one that takes its place. */
const placeOf = ({ key, port, pool }: DatabaseState) => ({ key, port, pool });

/**
 * A server of the newer version takes the place of the one that the database has: same address, same accounts,
 * same content, which was compared. The one before waits, stopped. From the first step to the last nobody is let
 * in, so that nothing is written that would be lost; when a step fails, the server before goes on as it was.
 */
export async function upgrade(
  entry: Entry,
  version: string,
  acting: Acting,
  with_: Upgrading,
  signal: AbortSignal,
): Promise<Entry> {
  const { kind, authority } = acting;
  const { key, spec } = entry.state;
  const way = kind.majorUpgrade;
  if (!way) throw new HostError("UNSUPPORTED", 422, `${kind.engine} has one major version here.`);
  await way.assertPossible(spec.version, version);
  if (entry.state.pendingAccount !== null) throw rotating(key);
  const former = with_.entries.get(keyBefore(key));
  if (former) await with_.remove(former, acting);
  const exact = await kind.exactVersion(version);
  const next = await with_.reserve(homeOf(key, version), { ...spec, version }, exact, acting.limits);
  try {
    const { database, owner } = entry.state;
    save(next, { database, owner, username: owner, password: newAccount().password });
    await with_.prepare(next, acting);
    await startAndFurnish(next, acting, signal, () => with_.freePort());
    faultPoint(`host.${kind.engine}.upgrade-made`);
    save(entry, { closed: true });
    await with_.stopPool(entry);
    await way.close(entry, authority);
    faultPoint(`host.${kind.engine}.upgrade-closed`);
    save(next, { users: entry.state.users });
    await way.carry(entry, next, authority, signal);
    faultPoint(`host.${kind.engine}.upgrade-carried`);
    save(next, accountsOf(entry.state));
    await way.open(next, authority);
    await proveFirst(next, acting);
    await halt(entry, kind);
    await halt(next, kind);
  } catch (error) {
    await with_.remove(next, acting);
    await reopen(entry, acting, with_);
    throw error;
  }
  takePlace(next, entry, "keep", with_.entries, kind.engine);
  return settle(next, acting, with_);
}

/** The server before the upgrade takes its place again; what was written since is gone with the newer one. */
export async function goBack(entry: Entry, acting: Acting, with_: Upgrading): Promise<Entry> {
  const { kind, authority } = acting;
  const before = with_.entries.get(keyBefore(entry.state.key));
  if (!before)
    throw new HostError("CONFLICT", 409, "There is no server of an earlier version to go back to.", {
      reason: "no_way_back",
    });
  if (entry.state.pendingAccount !== null) throw rotating(entry.state.key);
  if (before.state.hasDisk) await acting.limits.mountDisks(before.folders, kind.journalBytes !== null);
  before.server = kind.running(before);
  if (!before.server) await launch(before, acting);
  try {
    const proof = await awaitLogin(before, () => kind.proveAdministrator(before, authority));
    if (!proof.ok) throw loginFailed(before, proof);
    // Passwords that were changed since hold, and what was taken back since stays taken back.
    save(before, accountsOf(entry.state));
    await kind.majorUpgrade!.open(before, authority);
    const login = await kind.prove(loginOf(before, authority), true);
    if (!login.ok) throw loginFailed(before, login);
  } finally {
    await halt(before, kind);
  }
  faultPoint(`host.${kind.engine}.back-proved`);
  await with_.stopPool(entry);
  await halt(entry, kind);
  takePlace(before, entry, "remove", with_.entries, kind.engine);
  await with_.remove(entry, acting);
  return settle(before, acting, with_);
}

/** The server before the upgrade is removed. */
export async function forgetBefore(key: string, acting: Acting, with_: Upgrading): Promise<void> {
  const before = with_.entries.get(keyBefore(key));
  if (before) await with_.remove(before, acting);
}

/** One write of a state file decides; `finishSwaps` does after a crash what follows it here. */
function takePlace(
  next: Entry,
  former: Entry,
  then: "keep" | "remove",
  entries: Map<string, Entry>,
  engine: string,
): void {
  const { key } = former.state;
  const { port: setAside, key: keyUntilNow } = next.state;
  save(next, {
    ...placeOf(former.state),
    ...{ phase: "ready", wanted: "running", closed: false, standsBy: null },
    replaces: { home: former.state.home, port: setAside, then },
  });
  faultPoint(`host.${engine}.upgrade-decided`);
  finishSwap(next, former);
  entries.delete(keyUntilNow);
  entries.set(key, next);
  entries.set(keyBefore(key), former);
}

function finishSwap(next: Entry, former: Entry): void {
  const { key, replaces } = next.state;
  const isKept = replaces?.then === "keep";
  save(former, {
    ...{ key: keyBefore(key), standsBy: key, port: replaces!.port, pool: null, wanted: "stopped" },
    ...{ closed: true, phase: isKept ? "ready" : "deleting" },
  });
  save(next, { replaces: null });
}

/** @param ready all servers that were found on disk */
export function finishSwaps(ready: readonly Entry[]): void {
  for (const next of ready) {
    const { replaces } = next.state;
    if (replaces === null) continue;
    const former = ready.find(({ state }) => state.home === replaces.home);
    if (former) finishSwap(next, former);
    else save(next, { replaces: null });
  }
}

async function settle(entry: Entry, acting: Acting, with_: Upgrading): Promise<Entry> {
  const proof = await bringUp(entry, acting);
  if (!proof.ok) throw loginFailed(entry, proof);
  await with_.settlePool(entry, acting);
  return entry;
}

async function reopen(entry: Entry, acting: Acting, with_: Upgrading): Promise<void> {
  if (!entry.state.closed) return;
  await bringUp(entry, acting);
  await with_.settlePool(entry, acting);
}

const rotating = (key: string) =>
  new HostError("CONFLICT", 409, `The credentials of database ${key} are being changed. Retry.`, {
    reason: "rotating",
  });

/** What is shown of the way back. */
export function wayBackOf(entry: Entry, entries: ReadonlyMap<string, Entry>): HostedDatabase["wayBack"] {
  const before = entries.get(keyBefore(entry.state.key));
  return before ? { version: before.state.spec.version } : null;
}
