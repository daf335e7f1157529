import type { Migration } from "@platform/postgres";

export const cronPoliciesMigration: Migration = {
  name: "0040-cron-policies",
  sql: `
alter table cron_jobs
  -- {path, method, headers, body} in place of a command; sealed, as headers may hold a secret.
  add column http_sealed bytea,
  add column missed_policy text not null default 'skip',
  add column missed_limit integer not null default 10,
  add column max_retries integer not null default 0,
  add column retry_delay_sec integer not null default 30;
alter table cron_executions
  add column attempt integer not null default 1,
  -- Earlier tries: [{attempt, reason, error, finished_at}].
  add column attempts jsonb not null default '[]',
  add column not_before timestamptz,
  add column is_unwanted boolean not null default false,
  add column release_id uuid;
`,
};
