import assert from "node:assert/strict";
import type { Answer, Json } from "./api.ts";

/** Types as the contract writes them; `?` marks what may be null. */
export type FieldType =
  | "uuid"
  | "string"
  | "number"
  | "boolean"
  | "time"
  | "object"
  | "array"
  | "url"
  | "sha256"
  | "uuid?"
  | "string?"
  | "number?"
  | "boolean?"
  | "time?"
  | "object?"
  | "sha256?"
  | "array?";
export type Shape = Record<string, FieldType>;

const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const time = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/;

const checks: Record<string, (value: unknown) => boolean> = {
  uuid: (value) => typeof value === "string" && uuid.test(value),
  string: (value) => typeof value === "string",
  number: (value) => typeof value === "number" && Number.isFinite(value),
  boolean: (value) => typeof value === "boolean",
  time: (value) => typeof value === "string" && time.test(value),
  object: (value) => typeof value === "object" && value !== null && !Array.isArray(value),
  array: (value) => Array.isArray(value),
  url: (value) => typeof value === "string" && URL.canParse(value),
  sha256: (value) => typeof value === "string" && /^[0-9a-f]{64}$/.test(value),
};

export function assertShape(value: unknown, shape: Shape, where: string): void {
  assert.ok(checks["object"]!(value), `${where} is no object: ${JSON.stringify(value)}`);
  const wrong = Object.entries(shape).flatMap(([name, type]) => {
    const field = (value as Json)[name];
    const isOptional = type.endsWith("?");
    if (isOptional && field === null) return [];
    return checks[type.replace("?", "")]!(field) ? [] : [`${name}: ${JSON.stringify(field)} is no ${type}`];
  });
  assert.deepEqual(wrong, [], where);
}

/** The inside of an answer by its envelope: D `{data}`, T the object itself, L `{data: […]}`. */
export function inside(answer: Answer, envelope: "D" | "T" | "L"): unknown {
  const json = answer.json as Json;
  const where = `${answer.method} ${answer.path}`;
  assert.match(answer.headers["content-type"] ?? "", /^application\/json/, where);
  if (envelope === "T") {
    assert.ok(
      !("data" in json),
      `${where}: a bare object must not carry data, which every client takes for the envelope`,
    );
    return json;
  }
  assert.ok("data" in json, `${where} has no data: ${answer.text.slice(0, 300)}`);
  if (envelope === "L") assert.ok(Array.isArray(json["data"]), `${where}: data is no list`);
  return json["data"];
}

const external: Shape = {
  external_workspace_id: "string?",
  external_user_id: "string?",
  external_project_id: "string?",
  workspace_id: "uuid?",
  project_id: "uuid?",
  tenant_id: "uuid",
};

export const shapes = {
  sandbox: {
    ...external,
    id: "uuid",
    slug: "string",
    name: "string?",
    metadata: "object",
    owner_id: "string?",
    state: "string",
    ready: "boolean",
    ready_at: "time?",
    boot_path: "string?",
    boot_ms: "number?",
    created_at: "time",
    inserted_at: "time",
    started_at: "time?",
    destroyed_at: "time?",
    size: "string",
    template_id: "string",
    image_id: "string",
    cpu_count: "number",
    memory_mb: "number",
    disk_size_mb: "number",
    disk_mb: "number",
    resource_contract: "object",
    persistent: "boolean",
    always_on: "boolean",
    timeout_sec: "number",
    timeout_remaining_ms: "number?",
    idle_timeout_sec: "number",
    total_runtime_sec: "number",
    preview_url: "url",
    preview_domain: "string",
    url_info: "object",
    url_class: "string",
    stable_for_embedding: "boolean",
    recommended_next_action: "string",
  },
  exec: {
    stdout: "string",
    stderr: "string",
    exit_code: "number",
    duration_ms: "number",
    timed_out: "boolean",
  },
  process: {
    id: "string",
    name: "string",
    status: "string",
    state: "string",
    pid: "number?",
    exit_code: "number?",
    command: "string",
    cwd: "string?",
    started_at: "time",
    stopped_at: "time?",
    log_path: "string",
  },
  usage: {
    sandbox_id: "uuid",
    state: "string",
    runtime_sec: "number",
    provisioned_vcpu_ms: "number",
    provisioned_memory_mb_ms: "number",
    creation_count: "number",
    active_cpu_ms: "number?",
    network_ingress_bytes: "number?",
    network_egress_bytes: "number?",
    measurement_status: "object",
    estimated_cost_cents: "number",
    timeout_sec: "number",
    timeout_remaining_ms: "number?",
  },
  expose: {
    url: "url",
    preview_id: "uuid",
    port: "number",
    ready: "boolean",
    class: "string",
    url_class: "string",
    stable_for_embedding: "boolean",
    recommended_next_action: "string",
    alias_slug: "string?",
  },
  preview: {
    id: "uuid",
    name: "string?",
    port: "number",
    state: "string",
    visibility: "string",
    url: "url",
    route_status: "string",
    expires_at: "time?",
  },
  snapshot: {
    id: "uuid",
    sandbox_id: "uuid",
    status: "string",
    comment: "string?",
    keep: "boolean",
    retention_seconds: "number?",
    last_used_at: "time?",
    expires_at: "time?",
    created_at: "time",
    updated_at: "time",
  },
  database: {
    ...external,
    id: "uuid",
    name: "string",
    state: "string",
    status: "string",
    engine: "string",
    engine_version: "string",
    version: "string",
    cpu_count: "number",
    memory_mb: "number",
    storage_mb: "number",
    host: "string?",
    port: "number?",
    metadata: "object",
    created_at: "time",
    updated_at: "time",
  },
  credentials: {
    url: "url",
    recommended_url: "url",
    host: "string",
    port: "number",
    user: "string",
    username: "string",
    password: "string",
    database: "string",
  },
  deployment: {
    ...external,
    id: "uuid",
    name: "string",
    slug: "string",
    state: "string",
    public_url: "url",
    active_version_id: "uuid?",
    active_release_id: "uuid?",
    running_artifact_sha256: "sha256?",
    current_build_id: "uuid?",
    source_type: "string",
    repo_url: "string?",
    branch: "string?",
    build_command: "string?",
    run_command: "string?",
    auto_deploy: "boolean",
    linked_database_id: "uuid?",
    deployment_product: "string",
    error_message: "string?",
    metadata: "object",
    created_at: "time",
    updated_at: "time",
  },
  version: {
    ...external,
    id: "uuid",
    deployment_id: "uuid",
    version_number: "number",
    kind: "string",
    state: "string",
    source_sandbox_id: "uuid?",
    build_id: "uuid?",
    artifact_sha256: "sha256?",
    artifact_manifest: "object",
    runtime_command: "string?",
    runtime_port: "number?",
    metadata: "object",
    promoted_at: "time?",
  },
  release: {
    ...external,
    id: "uuid",
    deployment_id: "uuid",
    deployment_version_id: "uuid",
    kind: "string",
    state: "string",
    artifact_sha256: "sha256?",
    sha256: "sha256?",
    size_bytes: "number?",
    artifact_manifest: "object",
    start_command: "string?",
    port: "number?",
    metadata: "object",
    ready_at: "time?",
    build_id: "uuid?",
  },
  instance: {
    tenant_id: "uuid",
    id: "uuid",
    release_id: "uuid",
    desired_state: "string",
    state: "string",
    port: "number?",
    restart_count: "number",
    cpu_limit_millicores: "number",
    memory_limit_mb: "number",
  },
  build: { id: "uuid", deployment_id: "uuid", state: "string", started_at: "time?", finished_at: "time?" },
} as const satisfies Record<string, Shape>;
