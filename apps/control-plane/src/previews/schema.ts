import type { Migration } from "@platform/postgres";

/** Which previews' pages are listened to: null as the sandbox says. And what is kept of them found quickly. */
export const browserConsoleMigration: Migration = {
  name: "0050-browser-console",
  sql: `alter table previews add column console boolean;
create index events_console on events (resource_id, seq desc) where type = 'preview.console';`,
};
