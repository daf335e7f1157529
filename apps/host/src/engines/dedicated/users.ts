import { randomBytes } from "node:crypto";
import { HostError, type DatabaseCredentials } from "@platform/host-api";
import { isAlive } from "@platform/postgres";
import { credentialsOf, loginFailed, loginOf, save, type Entry } from "./entry.ts";
import type { Account } from "./login.ts";
import type { Acting } from "./server.ts";

const mostUsers = 20;

export const newAccount = (): Account => ({
  // Letters, digits, - and _ only: a URL with them reads the same to every client.
  username: `u_${randomBytes(8).toString("hex")}`,
  password: randomBytes(24).toString("base64url"),
});

/** @throws HostError `CONFLICT` */
export function assertAlive(entry: Entry): void {
  if (entry.server && isAlive(entry.server)) return;
  const message = `Database ${entry.state.key} is not running. Start it, then try again.`;
  throw new HostError("CONFLICT", 409, message, { reason: "not_running" });
}

/** An account beside the main one; the same name again gives the same one. */
export async function putUser(
  entry: Entry,
  { kind, authority }: Acting,
  name: string,
  access: "owner" | "read",
): Promise<DatabaseCredentials> {
  assertAlive(entry);
  const known = entry.state.users.find((user) => user.name === name);
  if (known && known.access !== access) {
    const message = `User ${name} exists with ${known.access} access. Remove it first, or take another name.`;
    throw new HostError("CONFLICT", 409, message, { reason: "spec_differs" });
  }
  if (!known && entry.state.users.length >= mostUsers) {
    const message = `A database has at most ${mostUsers} users. Remove one first.`;
    throw new HostError("INVALID", 422, message, { reason: "too_many_users" });
  }
  const user = known ?? { name, access, ...newAccount() };
  if (!known) save(entry, { users: [...entry.state.users, user] });
  await kind.addAccount(entry, authority, user, access);
  const proof = await kind.prove(loginOf(entry, authority, user));
  const isIn = proof.ok || (access === "read" && proof.reason === "read_only");
  if (!isIn) throw loginFailed(entry, proof);
  return credentialsOf(kind, entry.state, authority, user);
}

export async function dropUser(entry: Entry, { kind, authority }: Acting, name: string): Promise<void> {
  const user = entry.state.users.find((one) => one.name === name);
  if (!user) return;
  assertAlive(entry);
  await kind.dropAccount(entry, authority, user.username);
  save(entry, { users: entry.state.users.filter((one) => one.name !== name) });
}
