import type { Caller } from "../http/index.ts";

/** Columns that every resource of a tenant has. */
export interface OwnedRow {
  readonly id: string;
  readonly tenant_id: string;
  readonly workspace_id: string | null;
  readonly project_id: string | null;
  readonly external_workspace_id: string | null;
  readonly external_user_id: string | null;
  readonly external_project_id: string | null;
  readonly metadata: Record<string, unknown>;
  readonly created_at: Date;
  readonly updated_at: Date;
}

/** A key sees its tenant's rows; bound to a workspace or a user of the tenant's, only theirs. */
export function mayUse(
  caller: Caller,
  row: Pick<OwnedRow, "tenant_id" | "workspace_id" | "external_user_id">,
): boolean {
  return (
    row.tenant_id === caller.tenantId &&
    (caller.workspaceId === null || row.workspace_id === caller.workspaceId) &&
    (caller.externalUserId === null || row.external_user_id === caller.externalUserId)
  );
}
