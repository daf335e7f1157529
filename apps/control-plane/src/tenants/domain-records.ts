import { randomBytes } from "node:crypto";
import { Resolver } from "node:dns/promises";
import type { Tenant } from "./tenant.ts";

export type DomainKind = "preview" | "deployment";

export interface DomainRow {
  readonly tenant_id: string;
  readonly kind: DomainKind;
  readonly domain: string;
  readonly token: string;
  readonly verified_at: Date | null;
  readonly checked_at: Date | null;
  readonly last_error: string | null;
}

interface WantedRecord {
  readonly type: "TXT" | "CNAME";
  readonly name: string;
  readonly value: string;
}

export interface CheckedRecord extends WantedRecord {
  readonly found: readonly string[];
  readonly ok: boolean;
}

export interface Findings {
  readonly records: readonly CheckedRecord[];
  /** null: everything is in place. */
  readonly reason: "DNS_LOOKUP_FAILED" | "TXT_MISMATCH" | "CNAME_MISMATCH" | null;
  readonly message: string | null;
}

const below = ({ kind, domain }: DomainRow) => (kind === "preview" ? `sandbox.${domain}` : domain);

/** The TXT record proves whose the domain is, the wildcard that it leads here. */
export const wantedRecords = (tenant: Tenant, row: DomainRow): WantedRecord[] => [
  { type: "TXT", name: `_verify.${row.domain}`, value: row.token },
  { type: "CNAME", name: `*.${below(row)}`, value: tenant.domain },
];

const absent = new Set(["ENOTFOUND", "ENODATA"]);

/** Answers of a lookup; empty when there are none, null when it could not be made. */
async function answers(look: () => Promise<string[]>): Promise<string[] | null> {
  try {
    return await look();
  } catch (error) {
    return absent.has((error as { code?: string }).code ?? "") ? [] : null;
  }
}

const bare = (name: string) => name.toLowerCase().replace(/\.$/, "");

/** A wildcard has no record of its own name: any name below it is asked for. */
async function leadsHere(resolver: Resolver, name: string, target: string) {
  const probe = name.replace("*", `check-${randomBytes(4).toString("hex")}`);
  const names = await answers(() => resolver.resolveCname(probe));
  if (names?.some((found) => bare(found) === bare(target))) return { found: names, ok: true };
  // Providers that flatten aliases answer with addresses: the same ones as the target's do as well.
  const [here, there] = [
    await answers(() => resolver.resolve4(probe)),
    await answers(() => resolver.resolve4(target)),
  ];
  const ok =
    here !== null && there !== null && here.length > 0 && here.every((address) => there.includes(address));
  if (names === null && here === null) return null;
  return { found: [...(names ?? []), ...(here ?? [])], ok };
}

/** Looks both records up. @param servers DNS servers; null: the machine's own */
export async function checkRecords(
  tenant: Tenant,
  row: DomainRow,
  servers: readonly string[] | null,
): Promise<Findings> {
  const resolver = new Resolver({ timeout: 3_000, tries: 2 });
  if (servers) resolver.setServers(servers);
  const [txt, cname] = wantedRecords(tenant, row) as [WantedRecord, WantedRecord];
  const texts = await answers(async () =>
    (await resolver.resolveTxt(txt.name)).map((parts) => parts.join("")),
  );
  const pointer = await leadsHere(resolver, cname.name, cname.value);
  const hasToken = texts?.includes(txt.value) ?? false;
  const records = [
    { ...txt, found: texts ?? [], ok: hasToken },
    { ...cname, found: pointer?.found ?? [], ok: pointer?.ok ?? false },
  ];
  const finding = (reason: Findings["reason"], message: string | null) => ({ records, reason, message });
  if (texts === null || pointer === null)
    return finding("DNS_LOOKUP_FAILED", "The name servers did not answer. Retry in a minute.");
  if (texts.length === 0)
    return finding(
      "DNS_LOOKUP_FAILED",
      `There is no TXT record at ${txt.name}. Add it with the value "${txt.value}", then verify again.`,
    );
  if (!hasToken)
    return finding(
      "TXT_MISMATCH",
      `The TXT record at ${txt.name} lacks "${txt.value}". Correct it, then verify again.`,
    );
  if (!pointer.ok)
    return finding(
      "CNAME_MISMATCH",
      `${cname.name} does not lead here. Add a CNAME record to ${cname.value}, then verify again.`,
    );
  return finding(null, null);
}
