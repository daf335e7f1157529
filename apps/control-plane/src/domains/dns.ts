import { Resolver } from "node:dns/promises";

const tryMs = 2_500;
const tries = 2;
const mostHops = 8;

export interface Seen {
  /** The chain of canonical names, in order. */
  readonly cnames: string[];
  readonly texts: string[];
  /** Codes of lookups that got no answer at all: this says nothing about the records. */
  readonly failures: string[];
}

const absent = new Set(["ENODATA", "ENOTFOUND"]);

async function lookup<T>(failures: string[], ask: () => Promise<T[]>): Promise<T[]> {
  try {
    return await ask();
  } catch (error) {
    const code = (error as { code?: string }).code ?? "EUNKNOWN";
    if (!absent.has(code)) failures.push(code);
    return [];
  }
}

/**
 * What DNS says now; nothing is cached here.
 *
 * @param server `address:port` of a resolver; null: those of this machine
 */
export async function lookAtDns(hostname: string, server: string | null): Promise<Seen> {
  const resolver = new Resolver({ timeout: tryMs, tries });
  if (server) resolver.setServers([server]);
  const failures: string[] = [];
  const chain = async () => {
    const cnames: string[] = [];
    let name = hostname;
    for (let hop = 0; hop < mostHops; hop++) {
      const answers = await lookup(failures, () => resolver.resolveCname(name));
      const next = answers[0]?.toLowerCase().replace(/\.$/, "");
      if (!next || cnames.includes(next)) break;
      cnames.push(next);
      name = next;
    }
    return cnames;
  };
  const [cnames, texts] = await Promise.all([
    chain(),
    lookup(failures, () => resolver.resolveTxt(`_verify.${hostname}`)),
  ]);
  return { cnames, texts: texts.map((parts) => parts.join("")), failures };
}
