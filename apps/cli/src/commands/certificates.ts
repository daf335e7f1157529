import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import type { Certificate, Client, Wildcard } from "@platform/sdk";
import type { Command } from "commander";
import { withClient, type Context } from "../context.ts";
import { table } from "../output.ts";
import { certificateWords, recordTable } from "./domains.ts";

function show(certificate: Certificate): string[] {
  return [
    `${certificate.name}  ${certificateWords(certificate)}`,
    `id       ${certificate.id}`,
    `names    ${certificate.names.join(", ")}`,
    `source   ${certificate.source}`,
    `issuer   ${certificate.issuer ?? "-"}`,
    ...(certificate.renews_at ? [`renewed  ${certificate.renews_at}`] : []),
    ...(certificate.last_error ? [`do       ${certificate.last_error.next_step}`] : []),
  ];
}

function wildcardLines(wildcards: readonly Wildcard[]): string[] {
  if (wildcards.length === 0) return ["This installation orders no wildcards."];
  return [
    ...wildcards.map(({ name, certificate }) => `${name}  ${certificateWords(certificate)}`),
    "",
    ...recordTable(wildcards.map(({ record }) => record)),
  ];
}

export function addCertificates(program: Command, context: () => Context): void {
  const certificates = program.command("certificates").description("TLS certificates of your host names");
  const run = (work: (client: Client) => Promise<void>) => withClient(context(), work);
  certificates
    .command("list", { isDefault: true })
    .alias("ls")
    .description("list certificates")
    .action(() =>
      run(async (client) => {
        const all = await client.certificates.list({ limit: 200 });
        const rows = all.map((one) => [
          one.id,
          one.name,
          one.source,
          one.state,
          one.not_after ?? "-",
          one.last_error?.reason ?? "-",
        ]);
        context().output.result(all, table(["ID", "NAME", "SOURCE", "STATE", "UNTIL", "ERROR"], rows));
      }),
    );
  certificates
    .command("show")
    .argument("<id>", "id, or a host name that it serves")
    .action((id: string) =>
      run(async (client) => {
        const certificate = await client.certificates.get(id);
        context().output.result(certificate, show(certificate));
      }),
    );
  certificates
    .command("upload")
    .description("bring a certificate of your own")
    .argument("<chain>", "PEM file: the server's certificate, then each issuer")
    .argument("<key>", "PEM file of its private key")
    .action((chain: string, key: string) =>
      run(async (client) => {
        const { cwd, output } = context();
        const read = (file: string) => readFileSync(resolve(cwd, file), "utf8");
        const made = await client.certificates.upload({ certificate: read(chain), private_key: read(key) });
        output.result(made, show(made));
      }),
    );
  certificates
    .command("wildcards")
    .description("wildcards below your own domains, and the record that each needs")
    .option("--check", "look at DNS now")
    .action((options: { check?: boolean }) =>
      run(async (client) => {
        const all = options.check
          ? await client.certificates.checkWildcards()
          : await client.certificates.wildcards();
        context().output.result(all, wildcardLines(all));
      }),
    );
  certificates
    .command("remove")
    .alias("rm")
    .description("take uploaded certificates out of service")
    .argument("<id...>")
    .action((ids: string[]) =>
      run(async (client) => {
        for (const id of ids) await client.certificates.delete(id);
        context().output.result({ removed: ids }, ids);
      }),
    );
}
