export interface ApiKeyRow {
  readonly id: string;
  readonly tenant_id: string;
  readonly name: string;
  readonly key_prefix: string;
  readonly last_four: string;
  readonly key_type: string;
  /** `token`: made for one user by a key, and cannot make others. */
  readonly kind: "key" | "token";
  readonly scopes: readonly string[] | null;
  readonly workspace_id: string | null;
  readonly external_user_id: string | null;
  readonly allowed_ips: readonly string[] | null;
  readonly rate_limit_rpm: number | null;
  readonly expires_at: Date | null;
  readonly revoked_at: Date | null;
  readonly rotated_at: Date | null;
  readonly last_used_at: Date | null;
  readonly created_at: Date;
  readonly created_by: string | null;
}
