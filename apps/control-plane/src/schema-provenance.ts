import type { Migration } from "@platform/postgres";

export const provenanceMigration: Migration = {
  name: "0008-signed-provenance",
  sql: `
create table signing_keys (
  id uuid primary key default gen_random_uuid(), public_pem text not null, private_sealed bytea not null,
  created_at timestamptz not null default now(), retired_at timestamptz);
alter table releases add column attestation jsonb;
`,
};
