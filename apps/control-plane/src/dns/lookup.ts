import { Resolver } from "node:dns/promises";

const tryMs = 2_500;
const tries = 2;
const mostHops = 8;

export interface Answers {
  /** Values as written in DNS; names in lower case without trailing dot. Empty: there is no such record. */
  readonly values: readonly string[];
  /** Code of a lookup that got no answer at all: this says nothing about the record. */
  readonly failure: string | null;
}

const absent = new Set(["ENODATA", "ENOTFOUND"]);
const bare = (name: string) => name.toLowerCase().replace(/\.$/, "");

/**
 * What DNS says now; nothing is cached here.
 *
 * @param server `address:port` of a resolver; null: those of this machine
 */
export async function lookUp(
  server: string | null,
  type: "CNAME" | "TXT" | "A" | "AAAA",
  name: string,
): Promise<Answers> {
  const resolver = new Resolver({ timeout: tryMs, tries });
  if (server) resolver.setServers([server]);
  const ask = async (): Promise<string[]> => {
    if (type === "TXT") return (await resolver.resolveTxt(name)).map((parts) => parts.join(""));
    if (type === "CNAME") return (await resolver.resolveCname(name)).map(bare);
    return type === "A" ? resolver.resolve4(name) : resolver.resolve6(name);
  };
  try {
    return { values: await ask(), failure: null };
  } catch (error) {
    const code = (error as { code?: string }).code ?? "EUNKNOWN";
    return { values: [], failure: absent.has(code) ? null : code };
  }
}

/** The chain of canonical names, in order. */
export async function followAliases(server: string | null, hostname: string): Promise<Answers> {
  const values: string[] = [];
  let name = hostname;
  for (let hop = 0; hop < mostHops; hop++) {
    const found = await lookUp(server, "CNAME", name);
    if (found.failure !== null) return { values, failure: values.length > 0 ? null : found.failure };
    const next = found.values[0];
    if (!next || values.includes(next)) break;
    values.push(next);
    name = next;
  }
  return { values, failure: null };
}
