import { Resolver } from "node:dns/promises";
import type { Findings } from "./findings.ts";

const types = ["A", "AAAA", "CNAME", "MX", "NS", "SOA", "SRV", "TXT", "CAA"] as const;
const absent = new Set(["ENODATA", "ENOTFOUND", "ENOTIMP", "EREFUSED", "ESERVFAIL"]);

/** Looks at everything that the name's servers say about it. @returns what could not be looked up */
export async function readDns(
  hostname: string,
  servers: readonly string[],
  findings: Findings,
): Promise<string[]> {
  const resolver = new Resolver({ timeout: 3_000, tries: 2 });
  resolver.setServers([...servers]);
  const failed: string[] = [];
  for (const type of types) {
    try {
      const records: unknown = await resolver.resolve(hostname, type);
      findings.text(`dns ${hostname} ${type}`, "dns", JSON.stringify(records));
    } catch (error) {
      const { code } = error as { code?: string };
      if (!absent.has(code ?? "")) failed.push(`dns ${hostname} ${type}: ${code}`);
    }
  }
  return failed;
}
