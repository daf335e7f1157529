import { newId, Wakeup } from "@platform/daemon";
import type { Queryable } from "@platform/postgres";
import type { AuditEntry, Caller } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { actionOf } from "./action.ts";

interface Row {
  readonly id: string;
  readonly tenant_id: string;
  readonly workspace_id: string | null;
  readonly action: string;
  readonly actor: Record<string, unknown>;
  readonly resource_type: string;
  readonly resource_id: string | null;
  readonly status: string;
  readonly ip_address: string;
  readonly metadata: Record<string, unknown>;
  readonly at: Date;
}

const flushMs = 500;
const batch = 500;
const most = 20_000;

/** Names and ids only: bodies may hold secrets, so nothing of them is kept. */
function toRow({ caller, route, params, status, ip, resourceId }: AuditEntry): Row {
  const { action, resourceType } = actionOf(route);
  return {
    id: newId(),
    tenant_id: caller.tenantId,
    workspace_id: caller.workspaceId,
    action,
    actor: { id: caller.keyId, type: "api_key", name: caller.keyName, key_type: caller.keyType },
    resource_type: resourceType,
    resource_id: (params["id"] ?? resourceId)?.slice(0, 255) ?? null,
    status: status < 400 ? "success" : "failure",
    ip_address: ip,
    metadata: { method: route.method, operation: route.id, http_status: status },
    at: new Date(),
  };
}

/**
 * Keeps the audit log. Entries wait in memory for at most half a second, so that no request waits for
 * them; a crash loses those, an orderly stop none. While the database is away they pile up to a bound.
 */
export class AuditWriter {
  readonly #platform: Platform;
  readonly #wakeup = new Wakeup();
  readonly #stop = new AbortController();
  #rows: Row[] = [];
  #loop: Promise<void> | null = null;

  constructor(platform: Platform) {
    this.#platform = platform;
  }

  /** For ServerOptions.audit. */
  readonly audit = (entry: AuditEntry): void => {
    if (this.#rows.length >= most) {
      this.#rows.shift();
      this.#platform.log.warn("the audit log cannot be written; the oldest waiting entry is dropped");
    }
    this.#rows.push(toRow(entry));
    if (this.#rows.length >= batch) this.#wakeup.wake();
  };

  start(): void {
    this.#loop = this.#run();
  }

  /** Writes what waits, then ends. */
  async stop(): Promise<void> {
    this.#stop.abort();
    this.#wakeup.wake();
    await this.#loop;
    await this.flush();
  }

  /** Writes what waits now. @throws when the database refuses; the entries then go on waiting */
  async flush(): Promise<void> {
    while (this.#rows.length > 0) {
      const rows = this.#rows.slice(0, batch);
      await this.#write(rows);
      const written = new Set(rows);
      this.#rows = this.#rows.filter((row) => !written.has(row));
    }
  }

  async #run(): Promise<void> {
    while (!this.#stop.signal.aborted) {
      await this.#wakeup.wait(flushMs, this.#stop.signal);
      await this.flush().catch((error: unknown) =>
        this.#platform.log.warn({ err: error }, "cannot write the audit log"),
      );
    }
  }

  /** The workspace is that of the resource, where the key itself is not bound to one. */
  async #write(rows: readonly Row[]): Promise<void> {
    await this.#platform.pool.query(
      `with entry as (
         select e.*, case when e.resource_id ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then e.resource_id::uuid end as resource_uuid
         from jsonb_to_recordset($1::jsonb) as e(id uuid, tenant_id uuid, workspace_id uuid, action text, actor jsonb,
           resource_type text, resource_id text, status text, ip_address text, metadata jsonb, at timestamptz))
       insert into audit_log (id, tenant_id, workspace_id, action, actor, resource_type, resource_id, status, ip_address, metadata, at)
       select e.id, e.tenant_id,
         coalesce(e.workspace_id,
           (select s.workspace_id from sandboxes s where s.id = e.resource_uuid and e.resource_type = 'sandbox'),
           (select d.workspace_id from databases d where d.id = e.resource_uuid and e.resource_type = 'database'),
           (select d.workspace_id from deployments d where d.id = e.resource_uuid and e.resource_type = 'deployment')),
         e.action, e.actor, e.resource_type, e.resource_id, e.status, e.ip_address, e.metadata, e.at
       from entry e order by e.at on conflict (id) do nothing`,
      [JSON.stringify(rows)],
    );
  }
}

/** An entry of a feature's own, stored with the change it tells of. Names, ids and digests only. */
export async function auditIn(
  db: Queryable,
  caller: Pick<Caller, "tenantId" | "keyId" | "keyName" | "keyType">,
  entry: {
    readonly action: string;
    readonly resourceType: string;
    readonly resourceId: string;
    readonly workspaceId: string | null;
    readonly metadata: Record<string, unknown>;
  },
): Promise<void> {
  await db.query(
    `insert into audit_log (id, tenant_id, workspace_id, action, actor, resource_type, resource_id, status, metadata)
     values ($1, $2, $3, $4, $5, $6, $7, 'success', $8)`,
    [
      newId(),
      caller.tenantId,
      entry.workspaceId,
      entry.action,
      { id: caller.keyId, type: "api_key", name: caller.keyName, key_type: caller.keyType },
      entry.resourceType,
      entry.resourceId,
      entry.metadata,
    ],
  );
}
