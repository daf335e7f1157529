import type { Migration } from "@platform/postgres";

export const edgesMigration: Migration = {
  name: "0030-request-bytes",
  sql: `alter table request_logs add column bytes bigint not null default 0;
create index request_logs_by_request on request_logs (deployment_id, request_id);`,
};
