/** May the page run a script of its own origin, and report to its own origin? */
export type Verdict =
  | { readonly type: "allowed"; readonly nonce: string | null }
  | { readonly type: "refused"; readonly reason: string };

type Policy = ReadonlyMap<string, readonly string[]>;

/**
 * What the page's Content-Security-Policy says, header by header. A policy that only reports counts like one
 * that is enforced: a page must not report a violation that is ours. Nothing is loosened.
 *
 * @param headers values of Content-Security-Policy and Content-Security-Policy-Report-Only
 * @param scheme that of the page: `http` or `https`
 */
export function verdictOf(headers: readonly string[], scheme: string): Verdict {
  const policies = headers.flatMap((header) => header.split(",")).map(parse);
  const offers: (readonly string[])[] = [];
  for (const policy of policies) {
    const sandbox = policy.get("sandbox");
    if (sandbox && !(sandbox.includes("allow-scripts") && sandbox.includes("allow-same-origin")))
      return refused("its Content-Security-Policy puts it in a sandbox without scripts of its origin");
    const connect = policy.get("connect-src") ?? policy.get("default-src");
    if (connect && !allowsOwn(connect, scheme))
      return refused("its Content-Security-Policy allows no requests to its own origin (connect-src)");
    const script = policy.get("script-src-elem") ?? policy.get("script-src") ?? policy.get("default-src");
    if (!script || (allowsOwn(script, scheme) && !lower(script).includes("'strict-dynamic'"))) continue;
    const offered = script.flatMap((source) => /^'nonce-([A-Za-z0-9+/_=-]+)'$/i.exec(source)?.[1] ?? []);
    offers.push(offered);
    if (!common(offers))
      return refused("its Content-Security-Policy allows no script of its own origin (script-src)");
  }
  return { type: "allowed", nonce: common(offers)?.[0] ?? null };
}

/** What all policies take; undefined: nothing, or none was asked. */
function common(offers: readonly (readonly string[])[]): readonly string[] | undefined {
  const shared = offers[0]?.filter((nonce) => offers.every((offer) => offer.includes(nonce)));
  return shared?.length ? shared : undefined;
}

const refused = (reason: string): Verdict => ({ type: "refused", reason });
const lower = (sources: readonly string[]) => sources.map((source) => source.toLowerCase());

/** Host names in a list are not looked at: a page that names itself so is left alone. */
function allowsOwn(sources: readonly string[], scheme: string): boolean {
  return lower(sources).some(
    (source) => source === "'self'" || source === "*" || source === `${scheme}:` || source === "http:",
  );
}

/** The first directive of a name counts. */
function parse(text: string): Policy {
  const policy = new Map<string, readonly string[]>();
  for (const part of text.split(";")) {
    const [name, ...values] = part.trim().split(/\s+/);
    const key = name!.toLowerCase();
    if (key !== "" && !policy.has(key)) policy.set(key, values);
  }
  return policy;
}
