import type { Migration } from "@platform/postgres";

/** Who makes a snapshot: what is pending without a living maker was cut off. */
export const snapshotsMigration: Migration = {
  name: "0030-snapshot-holder",
  sql: "alter table snapshots add column holder text",
};
