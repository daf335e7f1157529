import type { DatabaseState } from "../dedicated/database-state.ts";
import type { Insights } from "../dedicated/kind.ts";
import { superuserLogin, withLogin } from "./login.ts";

const longerThanMs = 500;
const mostStatements = 10;
const mostCharacters = 500;

/** Statements are counted by an extension that lives in the administrator's database, where no client looks in. */
export const statementSettings = {
  shared_preload_libraries: "pg_stat_statements",
  "pg_stat_statements.max": 500,
  "pg_stat_statements.track_utility": "off",
  "pg_stat_statements.save": "off",
};

interface Row {
  readonly connections: number;
  readonly uptimeSec: number;
  readonly cacheHitRatio: number | null;
}

export async function insights(state: DatabaseState, caCertificate: string): Promise<Insights> {
  return withLogin(superuserLogin(state, caCertificate), async (client) => {
    const { rows } = await client.query<Row>(
      `select (select count(*)::int from pg_stat_activity where usename <> 'postgres'
                 -- The platform's own login, whose connection the pooler keeps for a while.
                 and not (application_name = 'probe' and state = 'idle')) as connections,
              extract(epoch from now() - pg_postmaster_start_time())::float8 as "uptimeSec",
              (select blks_hit::float8 / nullif(blks_hit + blks_read, 0) from pg_stat_database
                 where datname = $1) as "cacheHitRatio"`,
      [state.database],
    );
    // A server that began before this was a setting counts no statements until its next start.
    const loaded = await client.query("select 1 from pg_settings where name = 'pg_stat_statements.max'");
    if (loaded.rowCount === 0) return { ...rows[0]!, slowQueries: null };
    await client.query("create extension if not exists pg_stat_statements");
    const slow = await client.query<{ text: string; calls: number; meanMs: number; maxMs: number }>(
      `select left(regexp_replace(query, '\\s+', ' ', 'g'), ${mostCharacters}) as text, calls::int,
              mean_exec_time as "meanMs", max_exec_time as "maxMs"
         from pg_stat_statements s join pg_database d on d.oid = s.dbid
        where d.datname = $1 and max_exec_time >= ${longerThanMs}
        order by mean_exec_time desc limit ${mostStatements}`,
      [state.database],
    );
    return { ...rows[0]!, slowQueries: { longerThanMs, count: null, statements: slow.rows } };
  });
}
