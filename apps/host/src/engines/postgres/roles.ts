import { escapeIdentifier, escapeLiteral } from "pg";
import type { DatabaseState } from "./database-state.ts";
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

/** Sets the password and ends the role's sessions, which would go on with the old one. */
export async function changePassword(
  state: DatabaseState,
  caCertificate: string,
  password: string,
): Promise<void> {
  const { username } = state;
  await withLogin(superuserLogin(state, caCertificate), async (client) => {
    await client.query(`alter role ${escapeIdentifier(username)} login password ${escapeLiteral(password)}`);
    await client.query("select pg_terminate_backend(pid) from pg_stat_activity where usename = $1", [
      username,
    ]);
  });
}

export async function countSessions(
  state: DatabaseState,
  caCertificate: string,
): Promise<{ connections: number; uptimeSec: number } | undefined> {
  return withLogin(superuserLogin(state, caCertificate), async (client) => {
    const { rows } = await client.query<{ connections: number; uptimeSec: number }>(
      `select (select count(*)::int from pg_stat_activity where usename = $1) as connections,
              extract(epoch from now() - pg_postmaster_start_time())::float8 as "uptimeSec"`,
      [state.username],
    );
    return rows[0];
  });
}
