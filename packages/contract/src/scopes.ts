/** Scopes are `<resource>:<action>`. `write` on a resource includes `read`. */
const readable = [
  "projects",
  "events",
  "products",
  "sandboxes",
  "previews",
  "deployments",
  "domains",
  "databases",
  "env",
  "storage",
  "cron_jobs",
  "egress",
  "billing",
  "project_auth",
  "project_integrations",
  "agents",
  "agent_runtime_profiles",
  "connections",
  "osa",
  "cloud",
] as const;
const more = ["sandboxes:create", "sandboxes:exec", "agents:run"] as const;

export const allScopes: readonly string[] = [
  ...readable.flatMap((name) => [`${name}:read`, `${name}:write`]),
  ...more,
];

const sandboxAll = ["sandboxes:read", "sandboxes:write", "sandboxes:create", "sandboxes:exec"];
export const presets: readonly { name: string; description: string; scopes: readonly string[] }[] = [
  {
    name: "read-only",
    description: "See everything, change nothing",
    scopes: readable.map((name) => `${name}:read`),
  },
  {
    name: "ci",
    description: "Test and deploy from a pipeline",
    scopes: [
      ...sandboxAll,
      "deployments:read",
      "deployments:write",
      "previews:read",
      "previews:write",
      "env:read",
    ],
  },
  {
    name: "agent",
    description: "An agent that builds in sandboxes",
    scopes: [
      "agents:read",
      "agents:write",
      "agents:run",
      ...sandboxAll,
      "previews:read",
      "previews:write",
      "env:read",
    ],
  },
  {
    name: "cli",
    description: "A person at a terminal",
    scopes: [
      "agents:read",
      "agents:write",
      "agents:run",
      "connections:read",
      "connections:write",
      ...sandboxAll,
      "previews:read",
      "previews:write",
      "deployments:read",
      "env:read",
    ],
  },
];

/** @param granted null means unrestricted */
export function allows(granted: readonly string[] | null, wanted: string): boolean {
  if (granted === null || granted.includes(wanted) || granted.includes("*")) return true;
  const [resource, action] = wanted.split(":");
  return granted.includes(`${resource}:*`) || (action === "read" && granted.includes(`${resource}:write`));
}
