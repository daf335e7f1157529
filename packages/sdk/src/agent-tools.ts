import { newIdempotencyKey, type Transport } from "./transport.ts";

export interface SearchRequest {
  readonly pattern: string;
  /** false: plain text. */
  readonly regex?: boolean;
  readonly case_sensitive?: boolean;
  /** `/workspace` by default. */
  readonly path?: string;
  readonly include?: readonly string[];
  readonly exclude?: readonly string[];
  /** Also in .git, node_modules and other folders that tools made. */
  readonly hidden?: boolean;
}

export interface SearchResult {
  readonly matches: readonly {
    readonly path: string;
    readonly line: number;
    readonly column: number;
    readonly text: string;
    readonly before: readonly string[];
    readonly after: readonly string[];
  }[];
  readonly count: number;
  readonly files_searched: number;
  readonly files_skipped: number;
  readonly truncated: boolean;
}

export interface ReplaceResult {
  readonly files: readonly { readonly path: string; readonly count: number }[];
  readonly count: number;
  readonly dry_run: boolean;
}

export interface PatchResult {
  readonly files: readonly { readonly path: string; readonly action: string; readonly hunks: number }[];
  readonly dry_run: boolean;
}

export interface GitStatus {
  readonly branch: string | null;
  readonly sha: string | null;
  readonly clean: boolean;
  readonly files: readonly { readonly path: string; readonly index: string; readonly worktree: string }[];
}

export interface GitCommit {
  readonly sha: string;
  readonly author: string;
  readonly at: string;
  readonly subject: string;
}

/** What an agent does with the files of a sandbox. */
export class AgentTools {
  readonly #http: Transport;
  constructor(http: Transport) {
    this.#http = http;
  }

  search = (id: string, body: SearchRequest & { max_results?: number; context?: number }) =>
    this.#http.json<SearchResult>("POST", at(id, "search"), { body });
  /** @throws ApiError COUNT_MISMATCH, and then nothing was changed */
  replace = (
    id: string,
    body: SearchRequest & { replacement: string; dry_run?: boolean; expected_count?: number },
  ) =>
    this.#http.json<ReplaceResult>("POST", at(id, "replace"), { body, idempotencyKey: newIdempotencyKey() });
  /** @throws ApiError PATCH_REJECTED with `details.rejects`, and then nothing was changed */
  patch = (id: string, body: { patch: string; path?: string; dry_run?: boolean; fuzz?: number }) =>
    this.#http.json<PatchResult>("POST", at(id, "patch"), { body, idempotencyKey: newIdempotencyKey() });

  gitStatus = (id: string, path = "/workspace") =>
    this.#http.json<GitStatus>("GET", at(id, "git/status"), { query: { path } });
  gitDiff = (id: string, options: { path?: string; staged?: boolean; ref?: string } = {}) =>
    this.#http.json<{ diff: string; truncated: boolean }>("GET", at(id, "git/diff"), {
      query: {
        ...(options.path ? { path: options.path } : {}),
        ...(options.staged ? { staged: "true" } : {}),
        ...(options.ref ? { ref: options.ref } : {}),
      },
    });
  gitLog = (id: string, limit = 20, path = "/workspace") =>
    this.#http.json<GitCommit[]>("GET", at(id, "git/log"), { query: { path, limit } });
  gitCommit = (id: string, body: { message: string; path?: string; paths?: string[] }) =>
    this.#http.json<{ committed: boolean; sha: string | null; reason: string | null }>(
      "POST",
      at(id, "git/commit"),
      { body, idempotencyKey: newIdempotencyKey() },
    );
  gitBranch = (id: string, body: { name: string; from?: string; path?: string }) =>
    this.#http.json<{ name: string; created: boolean }>("POST", at(id, "git/branch"), { body });
  gitClone = (id: string, body: { url: string; path?: string; branch?: string; depth?: number }) =>
    this.#http.json<{ path: string; sha: string | null }>("POST", at(id, "git/clone"), {
      body,
      timeoutMs: 11 * 60_000,
    });
}

const at = (id: string, action: string): string => `/sandboxes/${encodeURIComponent(id)}/${action}`;
