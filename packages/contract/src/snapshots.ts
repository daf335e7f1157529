import { z } from "zod";
import { NoBody } from "./fields.ts";
import { defineRoute } from "./route.ts";

const tag = "Snapshots";
const base = "/sandboxes/:id/snapshots";
export const CreateSnapshot = z
  .object({
    comment: z.string().max(2000).optional(),
    keep: z.boolean().optional(),
    retention_seconds: z.coerce.number().int().min(1).optional(),
    expiration_seconds: z.coerce.number().int().min(1).optional(),
    expiration_days: z.coerce.number().int().min(1).optional(),
    expiration: z
      .string()
      .regex(/^\d+[smhdw]$/)
      .optional(),
  })
  .optional();

export const snapshotRoutes = {
  create: defineRoute({
    id: "createSnapshot",
    method: "POST",
    path: base,
    summary: "Snapshot the files",
    tag,
    envelope: "data",
    scope: "sandboxes:write",
    status: 201,
    body: CreateSnapshot,
    idempotent: true,
  }),
  createOld: defineRoute({
    id: "createSnapshotOld",
    method: "POST",
    path: "/sandboxes/:id/snapshot",
    summary: "Older form of createSnapshot",
    tag,
    envelope: "data",
    scope: "sandboxes:write",
    status: 201,
    body: CreateSnapshot,
    idempotent: true,
  }),
  list: defineRoute({
    id: "listSnapshots",
    method: "GET",
    path: base,
    summary: "Snapshots of a sandbox",
    tag,
    envelope: "data",
    scope: "sandboxes:read",
  }),
  get: defineRoute({
    id: "getSnapshot",
    method: "GET",
    path: `${base}/:sid`,
    summary: "A snapshot",
    tag,
    envelope: "data",
    scope: "sandboxes:read",
  }),
  remove: defineRoute({
    id: "deleteSnapshot",
    method: "DELETE",
    path: `${base}/:sid`,
    summary: "Delete a snapshot",
    tag,
    envelope: "data",
    scope: "sandboxes:write",
    problems: ["SNAPSHOT_IN_USE"],
  }),
  restore: defineRoute({
    id: "restoreSnapshot",
    method: "POST",
    path: "/sandboxes/:id/restore/:sid",
    summary: "Put the sandbox back to a snapshot",
    tag,
    envelope: "top",
    scope: "sandboxes:write",
    body: NoBody,
    idempotent: true,
    problems: ["SNAPSHOT_NOT_READY"],
  }),
  listAll: defineRoute({
    id: "listAllSnapshots",
    method: "GET",
    path: "/snapshots",
    summary: "All snapshots",
    tag,
    envelope: "list",
    scope: "sandboxes:read",
    query: z.looseObject({}),
  }),
  getAny: defineRoute({
    id: "getAnySnapshot",
    method: "GET",
    path: "/snapshots/:sid",
    summary: "A snapshot",
    tag,
    envelope: "data",
    scope: "sandboxes:read",
  }),
  removeAny: defineRoute({
    id: "deleteAnySnapshot",
    method: "DELETE",
    path: "/snapshots/:sid",
    summary: "Delete a snapshot",
    tag,
    envelope: "data",
    scope: "sandboxes:write",
    problems: ["SNAPSHOT_IN_USE"],
  }),
} as const;
