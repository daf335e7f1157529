import { createPublicKey, verify } from "node:crypto";
import type { Command } from "commander";
import type { Client, Provenance, Release } from "@platform/sdk";
import { withClient, type Context } from "../context.ts";
import { CliError } from "../failure.ts";
import { table } from "../output.ts";

export function addRelease(program: Command, context: () => Context): void {
  const release = program.command("release").description("immutable releases of a deployment");
  const run = (work: (client: Client) => Promise<void>) => withClient(context(), work);
  release
    .command("inspect")
    .description("a release, its commands and how it was built")
    .argument("<deployment>", "id or name")
    .argument("<release>")
    .action((id: string, releaseId: string) => run((client) => inspect(context(), client, id, releaseId)));
  release
    .command("verify")
    .description("check the signature of a release, and that every stored byte still is what was signed")
    .argument("<deployment>", "id or name")
    .argument("<release>")
    .action((id: string, releaseId: string) => run((client) => check(context(), client, id, releaseId)));
  release
    .command("diff")
    .description("what differs between two releases")
    .argument("<deployment>", "id or name")
    .argument("<from>")
    .argument("<to>")
    .action((id: string, from: string, to: string) => run((client) => diff(context(), client, id, from, to)));
}

const commandsOf = (release: Release): [string, string][] => [
  ["digest", release.artifact_sha256 ?? "-"],
  ["size", release.size_bytes == null ? "-" : `${release.size_bytes} bytes`],
  ["start", release.start_command ?? "-"],
  ["port", String(release.port ?? "-")],
  ["health", release.health_check_path ?? "-"],
];

async function inspect(context: Context, client: Client, idOrName: string, releaseId: string): Promise<void> {
  const { id } = await client.deployments.find(idOrName);
  const release = await client.deployments.release(id, releaseId);
  const provenance = await client.deployments.provenance(id, releaseId);
  const definition = provenance.statement?.predicate.buildDefinition;
  const details = provenance.statement?.predicate.runDetails.metadata;
  const sbom = await client.deployments.sbom(id, releaseId);
  const packages = (sbom.sbom as { components?: unknown[] } | null)?.components ?? [];
  context.output.result({ release, provenance, sbom: sbom.sbom }, [
    `${release.id}  ${release.state}`,
    ...commandsOf(release).map(([name, value]) => `${name.padEnd(8)}${value}`),
    `source  ${definition?.resolvedDependencies[0]?.digest.sha256 ?? "-"}`,
    `build   ${definition?.externalParameters.buildCommand ?? "-"}`,
    `built   ${details?.finishedOn ?? "-"}`,
    `sbom    ${sbom.digest === null ? "-" : `${sbom.digest}, ${packages.length} packages`}`,
    `env     ${(release.artifact_manifest?.env ?? []).map((one) => one.name).join(" ") || "-"}`,
    `signed  ${provenance.verified ? "yes, and unchanged since" : (provenance.reason ?? differing(provenance))}`,
  ]);
}

const differing = (provenance: Provenance): string =>
  `differs in ${provenance.differs.map((one) => one.what).join(", ")}`;

/** The signature is checked here once more, with the key that the server names. */
async function check(context: Context, client: Client, idOrName: string, releaseId: string): Promise<void> {
  const { id } = await client.deployments.find(idOrName);
  const release = await client.deployments.release(id, releaseId);
  const provenance = await client.deployments.provenance(id, releaseId);
  const signed = provenance.statement?.subject[0]?.digest.sha256;
  const good = isSigned(provenance) && provenance.verified && signed === release.artifact_sha256;
  if (!good) {
    throw new CliError(
      "PROVENANCE_INVALID",
      `Release ${releaseId} is not what was signed: ${provenance.reason ?? differing(provenance)}.`,
      "Publish the app again, or promote another release.",
    );
  }
  const { artifact } = await client.deployments.verifyRelease(id, releaseId);
  if (!artifact.ok) {
    const files = artifact.files.map(
      (one) => `${one.path} (${one.expected ?? "absent"}, now ${one.actual ?? "gone"})`,
    );
    throw new CliError(
      "PROVENANCE_INVALID",
      `Release ${releaseId} is not what was built: ${files.join(", ") || artifact.message}`,
      "Publish the app again, or promote another release.",
    );
  }
  context.output.result(
    { provenance, artifact },
    `${releaseId}: signature good, every byte of ${signed} as it was built`,
  );
}

function isSigned({ envelope, public_key: key }: Provenance): boolean {
  if (!envelope || !key) return false;
  const payload = Buffer.from(envelope.payload, "base64");
  const signed = Buffer.concat([
    Buffer.from(`DSSEv1 ${envelope.payloadType.length} ${envelope.payloadType} ${payload.length} `),
    payload,
  ]);
  return envelope.signatures.some(({ sig }) =>
    verify(null, signed, createPublicKey(key), Buffer.from(sig, "base64")),
  );
}

async function diff(
  context: Context,
  client: Client,
  idOrName: string,
  from: string,
  to: string,
): Promise<void> {
  const { id } = await client.deployments.find(idOrName);
  const found = await client.deployments.diff(id, from, to);
  const { files, env } = found;
  const rows: [string, string, string][] = [
    ...found.settings.map((one): [string, string, string] => [one.name, one.from ?? "-", one.to ?? "-"]),
    ...env.added.map((name): [string, string, string] => [`env ${name}`, "absent", "set"]),
    ...env.removed.map((name): [string, string, string] => [`env ${name}`, "set", "absent"]),
    ...env.changed.map((name): [string, string, string] => [`env ${name}`, "set", "changed"]),
    ...found.dependencies.map((one): [string, string, string] => [
      `package ${one.name}`,
      one.from ?? "absent",
      one.to ?? "absent",
    ]),
    ...[...files.added, ...files.removed, ...files.changed].map((one): [string, string, string] => [
      `file ${one.path}`,
      shortened(one.expected),
      shortened(one.actual),
    ]),
  ];
  const listed = files.added.length + files.removed.length + files.changed.length;
  const all = files.counts.added + files.counts.removed + files.counts.changed;
  context.output.result(found, [
    ...(rows.length === 0 ? ["no difference"] : table(["", "FROM", "TO"], rows)),
    ...(all > listed ? [`and ${all - listed} more files`] : []),
  ]);
}

const shortened = (content: string | null): string =>
  content === null ? "absent" : content.replace(/^(sha256:[0-9a-f]{12})[0-9a-f]+/, "$1");
