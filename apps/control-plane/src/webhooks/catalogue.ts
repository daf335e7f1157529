import { PlatformError } from "@platform/contract";

/** Every event that this platform records, by category. Whoever records a new one adds it here. */
export const eventCatalogue = {
  sandbox: [
    "created",
    "ready",
    "paused",
    "resumed",
    "error",
    "destroyed",
    "image_fallback",
    "oom",
    "port_opened",
    "port_closed",
  ],
  preview: ["ready", "console"],
  template: ["created", "build_ready", "build_failed", "build_cancelled"],
  snapshot: ["created"],
  database: [
    "created",
    "ready",
    "failed",
    "unavailable",
    "recovered",
    "rotated",
    "backup_completed",
    "backup_failed",
    "deleted",
  ],
  deployment: [
    "created",
    "succeeded",
    "failed",
    "stopped",
    "deleted",
    "returned",
    "unhealthy",
    "oom",
    "approval_requested",
    "approved",
    "cancelled",
    "slept",
    "woken",
    "maintenance",
  ],
  workspace: ["created", "deleted"],
  api_key: ["created", "rotated", "revoked"],
  branding: ["updated"],
  tenant_domain: ["verified", "removed"],
  domain: ["created", "verified", "moved_away", "returned", "removed"],
  certificate: ["issued", "renewed", "failed", "uploaded", "expiring", "removed"],
  webhook: ["test"],
} as const satisfies Record<string, readonly string[]>;

/** Categories whose events belong to a workspace; all others concern the whole tenant. */
export const workspaceCategories: readonly string[] = [
  "sandbox",
  "preview",
  "snapshot",
  "database",
  "deployment",
];

const categories: Record<string, readonly string[]> = eventCatalogue;
const categoryOf = (pattern: string) => pattern.split(".")[0]!;

export const namesByCategory = (): Record<string, string[]> =>
  Object.fromEntries(
    Object.entries(categories).map(([category, names]) => [
      category,
      names.map((name) => `${category}.${name}`),
    ]),
  );

function exists(pattern: string): boolean {
  if (pattern === "*") return true;
  const [category, name, more] = pattern.split(".");
  const names = Object.hasOwn(categories, category!) ? categories[category!] : undefined;
  return names !== undefined && more === undefined && (name === "*" || names.includes(name!));
}

/**
 * @param events names, `sandbox.*` or `*`
 * @throws PlatformError UNKNOWN_EVENT_TYPE, EVENTS_NOT_WORKSPACE_SCOPABLE
 */
export function assertEvents(events: readonly string[], workspaceId: string | null): void {
  const unknown = events.filter((pattern) => !exists(pattern));
  if (unknown.length > 0) {
    throw new PlatformError(
      "UNKNOWN_EVENT_TYPE",
      `Unknown events: ${unknown.join(", ").slice(0, 200)}. See GET /webhooks/events.`,
      {
        details: { unknown },
        errors: { events: unknown.map((name) => `${name.slice(0, 100)} does not exist`) },
      },
    );
  }
  if (workspaceId === null) return;
  const wide = events.filter(
    (pattern) => pattern !== "*" && !workspaceCategories.includes(categoryOf(pattern)),
  );
  if (wide.length === 0) return;
  throw new PlatformError(
    "EVENTS_NOT_WORKSPACE_SCOPABLE",
    `${wide.join(", ").slice(0, 200)} concern the whole tenant. Leave out workspace_id or these events.`,
    {
      details: { events: wide },
      errors: { events: wide.map((name) => `${name} concerns the whole tenant`) },
    },
  );
}
