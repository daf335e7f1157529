import { z } from "zod";
import { defineRoute } from "./route.ts";

const base = "/deployments/:id/releases/:rid";
const d = { tag: "Deployments", envelope: "data", scope: "deployments:read" } as const;

const FileDifference = z.object({
  path: z.string(),
  expected: z.string().nullable().describe("Digest of the file as it was; null where there was none"),
  actual: z.string().nullable().describe("Digest of the file as it is; null where there is none"),
});

export const ReleaseCheck = z.object({
  release_id: z.uuid(),
  verified: z.boolean().describe("Signature, stored parameters and every byte agree"),
  signature: z.object({
    verified: z.boolean(),
    reason: z.string().nullable(),
    differs: z.array(z.object({ what: z.string(), signed: z.unknown(), stored: z.unknown() })),
  }),
  artifact: z.object({
    ok: z.boolean(),
    message: z.string().nullable(),
    part: z.string().nullable().describe("manifest, config, layer, sbom or list of files"),
    expected: z.string().nullable(),
    actual: z.string().nullable(),
    files: z.array(FileDifference).describe("Of a changed layer, at most 20"),
  }),
});
export type ReleaseCheck = z.output<typeof ReleaseCheck>;

export const ReleaseSbom = z.object({
  release_id: z.uuid(),
  digest: z.string().nullable(),
  sbom: z.unknown().describe("CycloneDX 1.6; null for a release of an older version"),
});
export type ReleaseSbom = z.output<typeof ReleaseSbom>;

const Change = z.object({ name: z.string(), from: z.string().nullable(), to: z.string().nullable() });

export const ReleaseDiff = z.object({
  from: z.uuid(),
  to: z.uuid(),
  same: z.boolean().describe("Both have one digest"),
  settings: z.array(Change).describe("Start command, port and the like"),
  env: z.object({
    added: z.array(z.string()),
    removed: z.array(z.string()),
    changed: z.array(z.string()).describe("Names whose value differs"),
  }),
  dependencies: z.array(Change).describe("Installed packages; null: not there"),
  files: z.object({
    added: z.array(FileDifference),
    removed: z.array(FileDifference),
    changed: z.array(FileDifference),
    counts: z.object({ added: z.int(), removed: z.int(), changed: z.int() }),
  }),
});
export type ReleaseDiff = z.output<typeof ReleaseDiff>;

export const releaseRoutes = {
  verify: defineRoute({
    id: "verifyRelease",
    method: "GET",
    path: `${base}/verify`,
    summary: "Whether a release is what was built and signed: its signature, and every byte that is stored",
    ...d,
    response: ReleaseCheck,
    problems: ["RELEASE_NOT_READY"],
  }),
  sbom: defineRoute({
    id: "getReleaseSbom",
    method: "GET",
    path: `${base}/sbom`,
    summary: "The packages that were installed for a release",
    ...d,
    response: ReleaseSbom,
    problems: ["RELEASE_NOT_READY", "PROVENANCE_INVALID"],
  }),
  diff: defineRoute({
    id: "diffReleases",
    method: "GET",
    path: `${base}/diff/:other`,
    summary: "What differs from this release to another one of the deployment",
    ...d,
    response: ReleaseDiff,
    problems: ["RELEASE_NOT_READY", "PROVENANCE_INVALID"],
  }),
} as const;
