import { setTimeout as delay } from "node:timers/promises";
import { ApiError, type Certificate, type Client, type DnsRecord, type Domain } from "@platform/sdk";
import type { Command } from "commander";
import { withClient, type Context } from "../context.ts";
import { table } from "../output.ts";

const waitMs = 120_000;
const everyMs = 5_000;
const untilSet = new Set(["CNAME_MISMATCH", "DNS_LOOKUP_FAILED"]);

/** The records to set, and what is seen there now. */
export function recordTable(records: readonly DnsRecord[]): string[] {
  const rows = records.map((record) => [
    record.type,
    record.name,
    record.value,
    record.found.join(", ") || "-",
    record.verdict,
  ]);
  return table(["TYPE", "NAME", "SET TO", "SEEN NOW", "VERDICT"], rows);
}

/** In a few words, with the reason when there is none. */
export function certificateWords(certificate: Certificate | null): string {
  if (!certificate) return "none yet";
  const { state, not_after, last_error, next_try_at } = certificate;
  const trouble = last_error
    ? `; ${last_error.reason}: ${last_error.message}${next_try_at ? ` Next try ${next_try_at}.` : ""}`
    : "";
  return `${state}${not_after ? ` until ${not_after}` : ""}${trouble}`;
}

function lines(domain: Domain): string[] {
  return [
    `${domain.hostname}  ${domain.state}`,
    `leads to     ${domain.deployment_id ?? "nothing"}${domain.redirect_policy === "none" ? "" : ` (${domain.redirect_policy})`}`,
    `dns          ${domain.dns_state}, looked at again ${domain.next_check_at}`,
    `certificate  ${certificateWords(domain.certificate)}`,
    ...(domain.last_error ? [`error        ${domain.last_error.code}: ${domain.last_error.message}`] : []),
    "",
    ...recordTable(domain.dns_records),
    ...(domain.dns_records.some(({ verdict }) => verdict === "ok")
      ? []
      : ["", "One of the two is enough: the CNAME, or the TXT where the name cannot have a CNAME."]),
  ];
}

async function verify(context: Context, client: Client, hostname: string, mustWait: boolean): Promise<void> {
  const endsAt = Date.now() + waitMs;
  const step = context.output.step("verify");
  for (;;) {
    try {
      const domain = await client.domains.verify(hostname);
      step.done();
      context.output.result(domain, lines(domain));
      return;
    } catch (error) {
      const isUnset = error instanceof ApiError && untilSet.has(error.code);
      if (isUnset && !context.output.isJson && (!mustWait || Date.now() > endsAt)) {
        const domain = await client.domains.get(hostname);
        context.output.say(recordTable(domain.dns_records).join("\n"));
      }
      if (!isUnset || !mustWait || Date.now() > endsAt) throw error;
      step.note(error.code);
      await delay(everyMs);
    }
  }
}

interface AddOptions {
  readonly deployment?: string;
  readonly redirect?: string;
}

export function addDomains(program: Command, context: () => Context): void {
  const domains = program.command("domains").description("host names of your own");
  const run = (work: (client: Client) => Promise<void>) => withClient(context(), work);
  domains
    .command("add")
    .description("claim a host name and print the records to set")
    .argument("<hostname>")
    .option("--deployment <deployment>", "id, slug or name of what it leads to")
    .option("--redirect <policy>", "none, www_to_apex or apex_to_www")
    .action((hostname: string, options: AddOptions) =>
      run(async (client) => {
        const domain = await client.domains.claim({
          hostname,
          ...(options.deployment
            ? { deployment_id: (await client.deployments.find(options.deployment)).id }
            : {}),
          ...(options.redirect ? { redirect_policy: options.redirect } : {}),
        });
        context().output.result(domain, lines(domain));
      }),
    );
  domains
    .command("list")
    .alias("ls")
    .description("list host names")
    .action(() =>
      run(async (client) => {
        const all = await client.domains.list({ limit: 200 });
        const rows = all.map((one) => [
          one.hostname,
          one.state,
          one.dns_state,
          one.certificate?.state ?? "-",
          one.deployment_id ?? "-",
        ]);
        context().output.result(all, table(["HOSTNAME", "STATE", "DNS", "CERTIFICATE", "DEPLOYMENT"], rows));
      }),
    );
  domains
    .command("verify")
    .description("look at DNS now")
    .argument("<hostname>")
    .option("--wait", "look again every 5 seconds, for 2 minutes")
    .action((hostname: string, options: { wait?: boolean }) =>
      run((client) => verify(context(), client, hostname, options.wait ?? false)),
    );
  domains
    .command("status")
    .description("records, what was seen at the last look, and the certificate")
    .argument("<hostname>")
    .action((hostname: string) =>
      run(async (client) => {
        const domain = await client.domains.get(hostname);
        context().output.result(domain, lines(domain));
      }),
    );
  domains
    .command("assign")
    .description("point a host name at a deployment")
    .argument("<hostname>")
    .argument("<deployment>", "id, slug or name")
    .option("--redirect <policy>", "none, www_to_apex or apex_to_www")
    .action((hostname: string, deployment: string, options: { redirect?: string }) =>
      run(async (client) => {
        const domain = await client.domains.assign(hostname, {
          deployment_id: (await client.deployments.find(deployment)).id,
          ...(options.redirect ? { redirect_policy: options.redirect } : {}),
        });
        context().output.result(domain, lines(domain));
      }),
    );
  domains
    .command("detach")
    .description("take a host name off its deployment; the claim stays")
    .argument("<hostname>")
    .action((hostname: string) =>
      run(async (client) => {
        const domain = await client.domains.detach(hostname);
        context().output.result(domain, lines(domain));
      }),
    );
  domains
    .command("remove")
    .alias("rm")
    .description("give host names up")
    .argument("<hostname...>")
    .action((hostnames: string[]) =>
      run(async (client) => {
        for (const hostname of hostnames) await client.domains.delete(hostname);
        context().output.result({ removed: hostnames }, hostnames);
      }),
    );
}
