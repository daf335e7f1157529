import type { Migration } from "@platform/postgres";

export const guardsMigration: Migration = {
  name: "0009-box-troubles",
  sql: "alter table sandboxes add column troubles_seen jsonb not null default '{}'",
};
