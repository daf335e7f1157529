import { escapeIdentifier, escapeLiteral } from "pg";
import type { DatabaseState } from "../dedicated/database-state.ts";
import type { Account } from "../dedicated/login.ts";
import { superuserLogin, withLogin } from "./login.ts";

/** First of all: a superuser password that no other server has, and no way into the system's own databases. */
export async function secureServer(
  state: DatabaseState,
  caCertificate: string,
  templatePassword: string,
): Promise<void> {
  const login = { ...superuserLogin(state, caCertificate), password: templatePassword };
  await withLogin(login, async (client) => {
    await client.query(`alter role postgres password ${escapeLiteral(state.superuserPassword)}`);
    await client.query("revoke all on database postgres, template1 from public");
  });
}

/** The role that is handed out owns its database and schema, and nothing beyond. */
export async function makeRoleAndDatabase(state: DatabaseState, caCertificate: string): Promise<void> {
  const role = escapeIdentifier(state.username);
  const database = escapeIdentifier(state.database);
  await withLogin(superuserLogin(state, caCertificate), async (client) => {
    await client.query(
      `create role ${role} login nosuperuser nocreatedb nocreaterole noreplication nobypassrls
         password ${escapeLiteral(state.password)}`,
    );
    await client.query(`create database ${database} owner ${role}`);
    await client.query(`revoke all on database ${database} from public`);
  });
  await withLogin(superuserLogin(state, caCertificate, state.database), async (client) => {
    await client.query(`alter schema public owner to ${role}`);
  });
}

/**
 * A further login role. As a member of the owner it works as the owner, so that everything keeps one
 * owner whoever makes it; a reader sees what is there and what the owner makes later.
 */
export async function addRole(
  state: DatabaseState,
  caCertificate: string,
  account: Account,
  access: "owner" | "read",
): Promise<void> {
  const [role, owner] = [account.username, state.owner].map(escapeIdentifier);
  await withLogin(superuserLogin(state, caCertificate, state.database), async (client) => {
    const { rowCount } = await client.query("select 1 from pg_roles where rolname = $1", [account.username]);
    const verb = rowCount === 0 ? "create" : "alter";
    await client.query(
      `${verb} role ${role} login nosuperuser nocreatedb nocreaterole noreplication nobypassrls
         password ${escapeLiteral(account.password)}`,
    );
    if (account.username === state.owner) return;
    if (access === "owner") {
      await client.query(`grant ${owner} to ${role}`);
      await client.query(`alter role ${role} set role = ${escapeLiteral(state.owner)}`);
      return;
    }
    await client.query(`grant connect on database ${escapeIdentifier(state.database)} to ${role}`);
    await client.query(`alter role ${role} set default_transaction_read_only = on`);
    const { rows } = await client.query<{ name: string }>(
      "select nspname as name from pg_namespace where nspname !~ '^(pg_|information_schema$)'",
    );
    await client.query(`grant pg_read_all_data to ${role}`);
    for (const { name } of rows)
      await client.query(`grant usage on schema ${escapeIdentifier(name)} to ${role}`);
  });
}

/**
 * The account is let in no more, and whoever came by it is sent away. What its sessions made under its
 * own name goes to the owner; the owner itself stays, without a way in.
 */
export async function removeRole(
  state: DatabaseState,
  caCertificate: string,
  username: string,
): Promise<void> {
  const [role, owner] = [username, state.owner].map(escapeIdentifier);
  await withLogin(superuserLogin(state, caCertificate, state.database), async (client) => {
    const { rowCount } = await client.query("select 1 from pg_roles where rolname = $1", [username]);
    if (rowCount === 0) return;
    await client.query(`alter role ${role} nologin password null`);
    await client.query("select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = $1", [
      username,
    ]);
    if (username === state.owner) return;
    await client.query(`reassign owned by ${role} to ${owner}`);
    await client.query(`drop owned by ${role}`);
    await client.query(`drop role ${role}`);
  });
}
