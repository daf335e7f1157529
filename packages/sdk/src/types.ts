/** Fields that clients of the HTTP contract rely on; a server may send more. */

export interface Tenant {
  readonly id: string;
  readonly name: string;
  readonly slug: string;
}

export interface Identity {
  readonly user: { readonly name: string; readonly email: string } | null;
  readonly organization: Tenant;
  readonly auth: { readonly scopes: readonly string[]; readonly unrestricted: boolean };
}

export interface Database {
  readonly id: string;
  readonly name: string;
  readonly engine: string;
  readonly engine_version: string;
  readonly state: string;
  readonly host: string | null;
  readonly port: number | null;
  readonly connection_test?: { readonly status: string; readonly reason?: string | null } | null;
  readonly last_error?: unknown;
  readonly created_at: string;
}

export interface DatabaseCredentials {
  readonly url: string;
  readonly recommended_url?: string;
  /** Through the pooler; absent while it does not let in, and for engines without one. */
  readonly pooled_url?: string;
  readonly host: string;
  readonly port: number;
  readonly username: string;
  readonly password: string;
  readonly database: string;
  readonly ssl?: {
    readonly mode: string;
    /** PEM of the authority that signed the server's certificate. */
    readonly ca_certificate: string | null;
  };
}

export interface CreateDatabase {
  readonly name: string;
  readonly engine?: string;
  readonly engine_version?: string;
  readonly memory_mb?: number;
  readonly storage_mb?: number;
  readonly metadata?: Record<string, unknown>;
}

export interface Sandbox {
  readonly id: string;
  readonly slug: string;
  readonly name: string | null;
  readonly state: string;
  readonly ready: boolean;
  readonly template_id: string;
  readonly size: string;
  readonly preview_url: string | null;
  readonly metadata: Record<string, unknown>;
  readonly created_at: string;
}

export interface CreateSandbox {
  readonly name?: string;
  readonly template_id?: string;
  readonly size?: string;
  readonly env?: Record<string, string>;
  readonly timeout_sec?: number;
  readonly idle_timeout_sec?: number;
  readonly persistent?: boolean;
  readonly metadata?: Record<string, unknown>;
  /** `true` makes one; `existing_database_id` links one before the first process starts. */
  readonly database?: boolean | { readonly existing_database_id: string } | { readonly engine: string };
}

export interface ExecRequest {
  /** Shell text. */
  readonly command: string;
  readonly cwd?: string;
  readonly env?: Record<string, string>;
  /** Seconds, 1 to 86 400; the server's default is 30. */
  readonly timeout?: number;
}

export interface ExecResult {
  readonly stdout: string;
  readonly stderr: string;
  readonly exit_code: number;
  readonly duration_ms: number;
  readonly timed_out: boolean;
}

export type ExecEvent =
  | { readonly type: "stdout" | "stderr"; readonly line: string }
  | {
      readonly type: "exit";
      /** -1 timed out, -2 the process was lost. */
      readonly exit_code: number;
      readonly timed_out?: boolean;
      readonly error?: { readonly code: string; readonly message: string } | null;
    };

export interface FileEntry {
  readonly name: string;
  readonly path: string;
  readonly size: number | null;
  readonly is_dir: boolean;
  readonly modified_at: string | null;
}

export interface FileUpload {
  readonly path: string;
  readonly content: Uint8Array;
}

export interface WriteManyResult {
  readonly written: readonly { readonly path: string; readonly size_bytes: number }[];
  readonly failed: readonly { readonly path: string; readonly error: string }[];
}

export interface Service {
  readonly id: string;
  readonly name: string;
  readonly status: string;
  readonly pid: number | null;
  readonly exit_code: number | null;
}

/** What a page said in a visitor's browser. */
export interface ConsoleLine {
  /** Number of the event that brought it. */
  readonly seq: number;
  readonly at: string;
  readonly preview_id: string;
  readonly port: number;
  readonly level: "error" | "warn" | "info" | "log" | "debug";
  readonly kind: "console" | "exception" | "rejection" | "request" | "resource" | "notice";
  readonly text: string;
  readonly page: string | null;
  readonly source: string | null;
  readonly line: number | null;
  readonly column: number | null;
  readonly stack: string | null;
  readonly method: string | null;
  /** Of a request that failed; null: no answer came. */
  readonly status: number | null;
}

export interface Exposed {
  readonly url: string;
  readonly preview_id: string;
  readonly port: number | null;
  readonly ready: boolean;
}

export interface Deployment {
  readonly id: string;
  readonly name: string;
  readonly slug: string;
  readonly state: string;
  readonly public_url: string | null;
  readonly active_version_id: string | null;
  readonly active_release_id: string | null;
  readonly running_artifact_sha256: string | null;
  readonly linked_database_id?: string | null;
  readonly error_message?: string | null;
  readonly created_at?: string;
}

export interface Version {
  readonly id: string;
  readonly deployment_id: string;
  readonly version_number: number;
  readonly kind: string;
  readonly state: string;
}

export interface Release {
  readonly id: string;
  readonly deployment_id: string;
  readonly deployment_version_id: string;
  readonly kind: string;
  readonly state: string;
  readonly artifact_sha256: string | null;
  readonly size_bytes?: number | null;
  readonly start_command?: string | null;
  readonly port?: number | null;
  readonly health_check_path?: string | null;
  readonly artifact_manifest?: {
    readonly env?: readonly { readonly name: string; readonly value_sha256?: string }[];
  };
  readonly created_at?: string;
  readonly ready_at?: string | null;
}

/** The signed statement of how a release was built, and whether the release still agrees with it. */
export interface Provenance {
  readonly release_id: string;
  readonly verified: boolean;
  readonly reason: string | null;
  readonly differs: readonly {
    readonly what: string;
    readonly signed?: unknown;
    readonly stored?: unknown;
  }[];
  readonly statement: {
    readonly subject: readonly { readonly digest: { readonly sha256: string } }[];
    readonly predicate: {
      readonly buildDefinition: {
        readonly externalParameters: { readonly buildCommand: string | null };
        readonly resolvedDependencies: readonly { readonly digest: { readonly sha256: string } }[];
      };
      readonly runDetails: { readonly metadata: { readonly startedOn: string; readonly finishedOn: string } };
    };
  } | null;
  /** DSSE; the signature is ed25519 over its pre-authentication encoding. */
  readonly envelope: {
    readonly payloadType: string;
    readonly payload: string;
    readonly signatures: readonly { readonly sig: string }[];
  } | null;
  /** PEM */
  readonly public_key: string | null;
}

export interface PublishRequest {
  readonly source_upload_id?: string;
  readonly name?: string;
  readonly slug?: string;
  readonly deployment_id?: string;
  readonly deployment_type?: "static" | "dynamic";
  readonly output_path?: string;
  readonly install_command?: string;
  readonly build_command?: string;
  readonly run_command?: string;
  readonly port?: number;
  readonly health_check_path?: string;
  readonly promote?: boolean;
  readonly env?: Record<string, string>;
  readonly metadata?: Record<string, unknown>;
  readonly database?: boolean | { readonly existing_database_id: string };
  /** Folder of SQL files that a promote of the release runs on its database. */
  readonly migrations_path?: string;
}

export interface Published {
  readonly deployment: Deployment;
  readonly version: Version;
  readonly release: Release;
  readonly url: string;
  readonly promotion_pending: boolean;
}

export interface EnvEntry {
  readonly name: string;
  readonly preview: string;
}

export interface ApiKey {
  readonly id: string;
  readonly name: string;
  readonly key_prefix: string;
  readonly status: string;
  readonly scopes: readonly string[];
  readonly expires_at: string | null;
  readonly created_at: string;
}

export interface Template {
  readonly id: string;
  readonly name: string;
  readonly description?: string;
}
