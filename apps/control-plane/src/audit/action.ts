import type { RouteDefinition } from "@platform/contract";

const changes: Partial<Record<RouteDefinition["method"], string>> = {
  POST: "create",
  PUT: "update",
  PATCH: "update",
  DELETE: "delete",
};

const snake = (text: string) => text.replaceAll("-", "_");

/** `sandboxes` → `sandbox`, `policies` → `policy`; names that are no plural stay. */
function singular(name: string): string {
  if (name.endsWith("ies")) return `${name.slice(0, -3)}y`;
  if (/(?:xes|ches|sses)$/.test(name)) return name.slice(0, -2);
  return name.endsWith("s") && !name.endsWith("ss") ? name.slice(0, -1) : name;
}

/**
 * What a change is called in the audit log: `sandboxes.create`, `sandboxes.pause`,
 * `webhooks.deliveries.replay`, `api_keys.rotate`.
 *
 * A POST to a word behind an id is an action (`/sandboxes/:id/pause`), unless the word is a plural: then
 * something is created in a collection (`/sandboxes/:id/snapshots`).
 */
export function actionOf(route: Pick<RouteDefinition, "method" | "path">): {
  action: string;
  resourceType: string;
} {
  const segments = route.path.split("/").filter((segment) => segment !== "" && segment !== "*");
  const names = segments.filter((segment) => !segment.startsWith(":")).map(snake);
  const last = segments.at(-1) ?? "";
  const isNested = segments.length > 2 || (segments.at(-2)?.startsWith(":") ?? false);
  const isAction = route.method === "POST" && isNested && !last.startsWith(":") && !last.endsWith("s");
  const action = isAction ? names.join(".") : [...names, changes[route.method] ?? "read"].join(".");
  return { action, resourceType: singular(names[0] ?? "resource") };
}
