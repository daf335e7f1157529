import {
  createProvenance,
  Envelope,
  parseDigest,
  SignatureInvalidError,
  signStatement,
  verifyEnvelope,
  type ProvenanceStatement,
} from "@platform/bundle";
import { PlatformError } from "@platform/contract";
import type { Platform } from "../platform.ts";
import type { Plan } from "./detect/index.ts";
import { publicPem, signingKey, trustedKeys, valueDigests } from "./signing-key.ts";
import type { BuildRow, ReleaseRow } from "./store.ts";

interface Built {
  readonly row: BuildRow;
  readonly plan: Plan;
  readonly sourceDigest: string;
  readonly sbomDigest: string | null;
  readonly env: Readonly<Record<string, string>>;
  readonly startedAt: Date;
  readonly finishedAt: Date;
}

/** @returns the signed statement of how the release came to be */
export async function attest(platform: Platform, built: Built): Promise<Envelope> {
  const { row, plan, env } = built;
  const { privateKey } = await signingKey(platform);
  const digest = await valueDigests(platform, row.id);
  const commands = [plan.install, plan.build].filter((command) => command !== null);
  const statement = createProvenance({
    bundleDigest: parseDigest(row.bundle_digest!),
    sourceDigest: parseDigest(built.sourceDigest),
    buildCommand: commands.length > 0 ? commands.join(" && ") : null,
    run: {
      kind: plan.kind,
      startCommand: plan.start,
      port: plan.port,
      healthCheckPath: plan.healthCheckPath,
    },
    toolchain: { node: process.version },
    invocationId: `urn:uuid:${row.id}`,
    sbomDigest: built.sbomDigest === null ? null : parseDigest(built.sbomDigest),
    startedAt: built.startedAt,
    finishedAt: built.finishedAt,
    builderId: `urn:uuid:${row.tenant_id}`,
    buildType: "urn:build:sandbox-app:v1",
    actor: row.actor.key_id,
    // Of this build only: two statements do not tell that they hold the same value.
    env: Object.entries(env).map(([name, value]) => ({
      name,
      scope: "run" as const,
      valueSha256: digest(value),
    })),
  });
  return signStatement(statement, privateKey);
}

export interface ProvenanceReport {
  readonly verified: boolean;
  /** What does not agree, each with the signed and the stored value; empty when verified. */
  readonly differs: readonly { readonly what: string; readonly signed: unknown; readonly stored: unknown }[];
  /** Why there is nothing to compare with; null when the signature is good. */
  readonly why: string | null;
  readonly statement: ProvenanceStatement | null;
  /** PEM of the key that made the signature. */
  readonly publicKey: string | null;
}

const unsigned = (why: string): ProvenanceReport => ({
  verified: false,
  differs: [],
  why,
  statement: null,
  publicKey: null,
});

/** Compares a release as it is stored with what was signed when it was built. */
export async function examine(platform: Platform, release: ReleaseRow): Promise<ProvenanceReport> {
  const parsed = Envelope.safeParse(release.attestation);
  if (!parsed.success) return unsigned("The release has no signed statement.");
  for (const key of await trustedKeys(platform)) {
    let statement: ProvenanceStatement;
    try {
      statement = verifyEnvelope(parsed.data, key);
    } catch (error) {
      if (error instanceof SignatureInvalidError) continue;
      throw error;
    }
    const differs = differences(statement, release);
    return { verified: differs.length === 0, differs, why: null, statement, publicKey: publicPem(key) };
  }
  return unsigned("No key of this installation made the signature of the release's statement.");
}

function differences(statement: ProvenanceStatement, release: ReleaseRow): ProvenanceReport["differs"] {
  const { run } = statement.predicate.buildDefinition.externalParameters;
  const pairs: [string, unknown, unknown][] = [
    ["digest", statement.subject[0]!.digest.sha256, release.artifact_sha256],
    ["start_command", run.startCommand, release.start_command],
    ["port", run.port, release.port],
    ["health_check_path", run.healthCheckPath, release.health_check_path],
    [
      "sbom",
      statement.predicate.runDetails.byproducts?.[0]?.digest.sha256 ?? null,
      (release.metadata["sbom_digest"] as string | undefined)?.replace("sha256:", "") ?? null,
    ],
    ["kind", run.kind, release.kind === "static" ? "static" : "dynamic"],
  ];
  return pairs
    .filter(([, signed, stored]) => signed !== stored)
    .map(([what, signed, stored]) => ({ what, signed, stored }));
}

/**
 * To be asked before anything of a release starts or is served.
 *
 * @throws PlatformError PROVENANCE_INVALID naming what differs
 */
export async function assertProvenance(platform: Platform, release: ReleaseRow): Promise<void> {
  const report = await examine(platform, release);
  if (report.verified) return;
  const what = report.why ?? `It differs in ${report.differs.map((one) => one.what).join(", ")}.`;
  platform.log.error({ releaseId: release.id, differs: report.differs }, "a release is not what was signed");
  throw new PlatformError(
    "PROVENANCE_INVALID",
    `Release ${release.id} is not what was built and signed. ${what} Publish the app again, or promote another release.`,
    { details: { release_id: release.id, differs: report.differs, reason: report.why } },
  );
}
