import type { DatabaseState } from "../dedicated/database-state.ts";
import type { Account } from "../dedicated/login.ts";

/** The platform's own account; it may log in from this machine only. */
export const administrator = "administrator";

/** What names and passwords of ours are made of; anything else would have to be escaped. */
const plain = /^[A-Za-z0-9_-]+$/;
export function assertPlain(text: string): string {
  if (!plain.test(text)) throw new RangeError("a name or password holds a character that is not expected");
  return text;
}

/** An underscore in a grant stands for any character unless it is escaped. */
const grantedDatabase = (name: string) => assertPlain(name).replaceAll("_", "\\_");

/** The installer makes accounts without a password, one for each name that this machine has. Safe to run again. */
export const closingStatements = [
  "alter user 'root'@'localhost' account lock",
  "delete from mysql.global_priv where User = '' or (User = 'root' and Host <> 'localhost')",
  "flush privileges",
];

/** What an account keeps while its database is too large: it may read, and make it smaller. */
const keptRights = "select, show view, delete, drop, lock tables, execute";

/** Takes the right to write more from an owner's account, or gives it back. */
export function quotaStatements(state: DatabaseState, username: string, isRestricted: boolean): string[] {
  const on = `on \`${grantedDatabase(state.database)}\`.*`;
  const name = `'${assertPlain(username)}'@'%'`;
  if (!isRestricted) return [`grant all privileges ${on} to ${name}`];
  return [
    `revoke all privileges ${on} from ${name}`,
    `grant ${keptRights} ${on} to ${name}`,
    // Rights of open sessions are those of the moment when they chose their database.
    `kill user '${assertPlain(username)}'`,
  ];
}

/** Makes an account or sets it right; safe to run again. */
export function accountStatements(
  state: Pick<DatabaseState, "database" | "restricted">,
  account: Account,
  access: "owner" | "read",
  connections: number,
): string[] {
  const name = `'${assertPlain(account.username)}'@'%'`;
  const rights = access === "read" ? "select, show view" : state.restricted ? keptRights : "all privileges";
  const options = `identified by '${assertPlain(account.password)}' require ssl with max_user_connections ${connections} account unlock`;
  return [
    `create user if not exists ${name} ${options}`,
    `alter user ${name} ${options}`,
    `grant ${rights} on \`${grantedDatabase(state.database)}\`.* to ${name}`,
  ];
}
