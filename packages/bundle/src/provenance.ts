import { createPublicKey, type KeyObject, sign, verify } from "node:crypto";
import { mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { type Digest, digestOf, hexOf, parseDigest } from "./digest.ts";
import { SignatureInvalidError } from "./errors.ts";
import { sbomType } from "./referrers.ts";
import { type ArtifactStore, writeWhole } from "./store.ts";
import { syncFolder } from "./temporary.ts";

const statementType = "https://in-toto.io/Statement/v1";
const predicateType = "https://slsa.dev/provenance/v1";
const payloadType = "application/vnd.in-toto+json";

const Sha256 = z.object({ sha256: z.string().regex(/^[0-9a-f]{64}$/) });
/** in-toto's ResourceDescriptor, as far as it is used here. */
const Resource = z.object({ name: z.string(), digest: Sha256, mediaType: z.string().optional() });

/** How the bundle is run; signed, so that nobody can have it run otherwise. */
const RunParameters = z.object({
  kind: z.enum(["static", "dynamic"]),
  startCommand: z.string().nullable(),
  port: z.int().nullable(),
  healthCheckPath: z.string().nullable(),
});

/** @see https://slsa.dev/spec/v1.0/provenance */
export const ProvenanceStatement = z.object({
  _type: z.literal(statementType),
  subject: z.array(z.object({ name: z.string(), digest: Sha256 })).min(1),
  predicateType: z.literal(predicateType),
  predicate: z.object({
    buildDefinition: z.object({
      buildType: z.string(),
      externalParameters: z.object({
        buildCommand: z.string().nullable(),
        run: RunParameters,
        env: z.array(
          z.object({ name: z.string(), scope: z.enum(["build", "run"]), valueSha256: z.string() }),
        ),
      }),
      internalParameters: z.object({ actor: z.string(), toolchain: z.record(z.string(), z.string()) }),
      resolvedDependencies: z.array(Resource),
    }),
    runDetails: z.object({
      builder: z.object({ id: z.string() }),
      metadata: z.object({
        invocationId: z.string().optional(),
        startedOn: z.string(),
        finishedOn: z.string(),
      }),
      byproducts: z.array(Resource).optional(),
    }),
  }),
});
export type ProvenanceStatement = z.output<typeof ProvenanceStatement>;

export interface ProvenanceInput {
  bundleDigest: Digest;
  sourceDigest: Digest;
  /** `null` if nothing was run. */
  buildCommand: string | null;
  run: z.output<typeof RunParameters>;
  /** Tool → exact version, such as `{ node: "24.1.0" }`. */
  toolchain: Record<string, string>;
  startedAt: Date;
  finishedAt: Date;
  /** Of this one run of the builder. */
  invocationId: string;
  /** Bill of materials, where one could be made. */
  sbomDigest: Digest | null;
  /** URIs on the operator's own domain. */
  builderId: string;
  buildType: string;
  /** Who asked for the build. */
  actor: string;
  /** Values appear as keyed or plain digests made by the caller, never themselves. */
  env: { name: string; scope: "build" | "run"; valueSha256: string }[];
}

/** States how a bundle came to be: an in-toto statement with SLSA provenance. */
export function createProvenance(input: ProvenanceInput): ProvenanceStatement {
  return ProvenanceStatement.parse({
    _type: statementType,
    subject: [{ name: "bundle", digest: { sha256: hexOf(input.bundleDigest) } }],
    predicateType,
    predicate: {
      buildDefinition: {
        buildType: input.buildType,
        externalParameters: { buildCommand: input.buildCommand, run: input.run, env: input.env },
        internalParameters: { actor: input.actor, toolchain: input.toolchain },
        resolvedDependencies: [{ name: "source", digest: { sha256: hexOf(input.sourceDigest) } }],
      },
      runDetails: {
        builder: { id: input.builderId },
        metadata: {
          invocationId: input.invocationId,
          startedOn: input.startedAt.toISOString(),
          finishedOn: input.finishedAt.toISOString(),
        },
        byproducts: input.sbomDigest
          ? [{ name: "sbom", mediaType: sbomType, digest: { sha256: hexOf(input.sbomDigest) } }]
          : [],
      },
    },
  });
}

/** @see https://github.com/secure-systems-lab/dsse/blob/master/envelope.md */
export const Envelope = z.object({
  payloadType: z.literal(payloadType),
  payload: z.base64(),
  signatures: z
    .array(z.object({ keyid: z.string(), sig: z.base64() }))
    .min(1)
    .max(16),
});
export type Envelope = z.output<typeof Envelope>;

/** What is signed: type and payload with their lengths, so that neither can pass for the other. */
const preAuthEncoding = (payload: Buffer) =>
  Buffer.concat([Buffer.from(`DSSEv1 ${payloadType.length} ${payloadType} ${payload.length} `), payload]);

const keyIdOf = (key: KeyObject): string => {
  const publicKey = key.type === "private" ? createPublicKey(key) : key;
  return digestOf(publicKey.export({ type: "spki", format: "der" }));
};

function assertEd25519(key: KeyObject): void {
  if (key.asymmetricKeyType !== "ed25519")
    throw new SignatureInvalidError(
      `The key is ${key.asymmetricKeyType ?? "symmetric"}; use an ed25519 key.`,
    );
}

/** @param privateKey ed25519 */
export function signStatement(statement: ProvenanceStatement, privateKey: KeyObject): Envelope {
  assertEd25519(privateKey);
  const payload = Buffer.from(JSON.stringify(statement));
  const sig = sign(null, preAuthEncoding(payload), privateKey).toString("base64");
  return {
    payloadType,
    payload: payload.toString("base64"),
    signatures: [{ keyid: keyIdOf(privateKey), sig }],
  };
}

/**
 * @returns what was signed
 * @throws SignatureInvalidError unless this key signed exactly this payload
 */
export function verifyEnvelope(envelope: Envelope, publicKey: KeyObject): ProvenanceStatement {
  assertEd25519(publicKey);
  const parsed = Envelope.safeParse(envelope);
  if (!parsed.success)
    throw new SignatureInvalidError("This is no signed envelope.", { cause: parsed.error });
  const payload = Buffer.from(parsed.data.payload, "base64");
  const signed = preAuthEncoding(payload);
  // The key id is only a hint: a signature counts if the key verifies it, whatever it is called.
  const isSigned = parsed.data.signatures.some(({ sig }) =>
    verify(null, signed, publicKey, Buffer.from(sig, "base64")),
  );
  if (!isSigned)
    throw new SignatureInvalidError("No signature of the envelope was made by this key over this payload.");
  try {
    return ProvenanceStatement.parse(JSON.parse(payload.toString("utf8")));
  } catch (error) {
    throw new SignatureInvalidError("What was signed is no provenance statement.", { cause: error });
  }
}

const attestationFolder = (store: ArtifactStore, bundleDigest: Digest) =>
  join(store.folder, "refs", "attestations", hexOf(bundleDigest));

/** Keeps an envelope with its bundle. Storing it again changes nothing. */
export async function storeAttestation(
  store: ArtifactStore,
  bundleDigest: Digest,
  envelope: Envelope,
): Promise<Digest> {
  const { digest } = await store.put(Buffer.from(JSON.stringify(Envelope.parse(envelope))));
  const folder = attestationFolder(store, bundleDigest);
  await mkdir(folder, { recursive: true });
  await syncFolder(join(folder, ".."));
  await writeWhole(store, join(folder, hexOf(digest)), "");
  return digest;
}

/** Digests of a bundle's envelopes, in byte order. */
export async function listAttestations(store: ArtifactStore, bundleDigest: Digest): Promise<Digest[]> {
  try {
    const names = await readdir(attestationFolder(store, bundleDigest));
    return names.sort().map((hex) => parseDigest(`sha256:${hex}`));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}

/** Envelopes as stored: whether to believe one is for `verifyEnvelope` to say. */
export async function readAttestations(store: ArtifactStore, bundleDigest: Digest): Promise<Envelope[]> {
  const envelopes = [];
  for (const digest of await listAttestations(store, bundleDigest))
    envelopes.push(await store.readJson(digest, Envelope, "attestation"));
  return envelopes;
}
