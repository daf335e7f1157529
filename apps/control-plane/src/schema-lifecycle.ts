import type { Migration } from "@platform/postgres";

/** What the life cycle of sandboxes needs beyond their row. One entry a feature, in the order they came. */
export const lifecycleMigrations: readonly Migration[] = [
  {
    // Sandboxes that are made together: batches, and forks of one copy.
    name: "lifecycle-01-groups",
    sql: `
alter table sandboxes add column group_id uuid, add column group_index integer, add column group_limit integer,
  add column restored_from uuid;
create index sandboxes_by_group on sandboxes (group_id, group_index) where group_id is not null;`,
  },
];
