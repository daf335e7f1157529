import { followAliases, lookUp } from "../dns/index.ts";

export type Verdict = "ok" | "missing" | "differs" | "unreachable" | "unchecked";

/** One record as we want it, and what DNS said when we looked last. */
export interface CheckedRecord {
  readonly type: "CNAME" | "TXT";
  readonly name: string;
  readonly value: string;
  /** `routing` brings visitors here, and proves the name as well; `ownership` proves it alone. */
  readonly purpose: "routing" | "ownership";
  readonly found: readonly string[];
  readonly verdict: Verdict;
}

export interface Inspection {
  readonly records: readonly [CheckedRecord, CheckedRecord];
  /** Whoever runs the name's DNS has put our record there. */
  readonly isProved: boolean;
  /** Visitors of the name come here, as far as DNS tells. */
  readonly leadsHere: boolean;
  /** DNS did not answer: this says nothing about the records. */
  readonly isUnreachable: boolean;
  readonly failures: readonly string[];
}

/** What of a domain's row says which records it needs. */
export interface Claimed {
  readonly hostname: string;
  readonly verification_target: string;
  readonly verification_token: string;
}

export const wantedRecords = (row: Claimed) =>
  [
    { type: "CNAME", name: row.hostname, value: row.verification_target, purpose: "routing" },
    { type: "TXT", name: `_verify.${row.hostname}`, value: row.verification_token, purpose: "ownership" },
  ] as const;

const verdictOf = (ok: boolean, found: readonly string[], failure: string | null): Verdict => {
  if (ok) return "ok";
  if (found.length > 0) return "differs";
  return failure === null ? "missing" : "unreachable";
};

/** Providers that cannot have a CNAME at an apex answer with the addresses of its target in its place. */
async function isFlattened(
  server: string | null,
  hostname: string,
  target: string,
): Promise<string[] | null> {
  const [here, there] = await Promise.all([lookUp(server, "A", hostname), lookUp(server, "A", target)]);
  if (here.values.length === 0 || there.values.length === 0) return null;
  return here.values.every((address) => there.values.includes(address)) ? [...here.values] : null;
}

/** Looks both records of a domain up, now. */
export async function inspectDns(row: Claimed, server: string | null): Promise<Inspection> {
  const [routing, ownership] = wantedRecords(row);
  const [aliases, texts] = await Promise.all([
    followAliases(server, routing.name),
    lookUp(server, "TXT", ownership.name),
  ]);
  const isAliased = aliases.values.includes(routing.value);
  const isOwned = texts.values.includes(ownership.value);
  const flattened =
    !isAliased && aliases.values.length === 0 ? await isFlattened(server, routing.name, routing.value) : null;
  const leadsHere = isAliased || flattened !== null;
  const failures = [aliases.failure, texts.failure].filter((code) => code !== null);
  return {
    records: [
      {
        ...routing,
        found: flattened ?? aliases.values,
        verdict: verdictOf(leadsHere, aliases.values, aliases.failure),
      },
      { ...ownership, found: texts.values, verdict: verdictOf(isOwned, texts.values, texts.failure) },
    ],
    // Addresses alone prove nothing: they are the same for every name that leads here.
    isProved: isAliased || isOwned,
    leadsHere,
    isUnreachable: !isAliased && !isOwned && failures.length > 0,
    failures,
  };
}
