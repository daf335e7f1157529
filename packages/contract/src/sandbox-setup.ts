import { z } from "zod";
import { EnvName, NoBody, Port } from "./fields.ts";
import { defineRoute } from "./route.ts";

const tag = "Sandboxes";

/** What a sandbox works with: its variables, its databases, its app. */
export const sandboxSetupRoutes = {
  env: defineRoute({
    id: "getSandboxEnv",
    method: "GET",
    path: "/sandboxes/:id/env",
    summary: "Environment, masked",
    tag,
    envelope: "data",
    scope: "env:read",
  }),
  putEnv: defineRoute({
    id: "putSandboxEnv",
    method: "PUT",
    path: "/sandboxes/:id/env",
    summary: "Set variables",
    tag,
    envelope: "data",
    scope: "env:write",
    body: z.object({
      vars: z
        .array(z.object({ key: EnvName, value: z.coerce.string(), encrypted: z.boolean().optional() }))
        .max(500),
    }),
  }),
  deleteEnv: defineRoute({
    id: "deleteSandboxEnv",
    method: "DELETE",
    path: "/sandboxes/:id/env/:key",
    summary: "Remove a variable",
    tag,
    envelope: "data",
    scope: "env:write",
  }),
  syncEnv: defineRoute({
    id: "syncSandboxEnv",
    method: "POST",
    path: "/sandboxes/:id/env/sync",
    summary: "Bring the variables to the running sandbox",
    tag,
    envelope: "data",
    scope: "env:write",
    body: NoBody,
  }),
  attachDatabase: defineRoute({
    id: "attachDatabaseToSandbox",
    method: "POST",
    path: "/sandboxes/:id/database",
    summary: "Link a database",
    tag,
    envelope: "data",
    scope: "sandboxes:write",
    body: z.object({ database_id: z.string(), env: EnvName.default("DATABASE_URL") }),
    problems: ["DATABASE_NOT_READY"],
  }),
  templateStart: defineRoute({
    id: "startTemplate",
    method: "POST",
    path: "/sandboxes/:id/template/start",
    summary: "Install and start an app",
    tag,
    envelope: "data",
    scope: "sandboxes:exec",
    body: z
      .object({
        install: z.union([z.boolean(), z.string()]).optional(),
        install_command: z.string().optional(),
        start_command: z.string().optional(),
        install_timeout_sec: z.coerce.number().optional(),
        start_timeout_sec: z.coerce.number().optional(),
        port: Port.optional(),
        workdir: z.string().optional(),
        readiness_probe: z.object({ path: z.string().optional(), port: Port.optional() }).optional(),
      })
      .optional(),
  }),
} as const;
