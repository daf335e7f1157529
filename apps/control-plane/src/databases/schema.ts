import type { Migration } from "@platform/postgres";

export const databasesMigrations: readonly Migration[] = [
  {
    name: "databases-1-rotation",
    sql: `
alter table databases add column product text, add column rotation jsonb;
create index database_links_by_database on database_links (database_id);
`,
  },
];
