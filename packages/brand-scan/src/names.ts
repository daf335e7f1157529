import names from "../names.json" with { type: "json" };

interface Owner {
  readonly owner: string;
  readonly parts?: readonly string[];
  readonly words?: readonly string[];
  readonly domains?: readonly string[];
  readonly headers?: readonly string[];
  readonly cookies?: readonly string[];
  readonly variables?: readonly string[];
}

export interface Hit {
  readonly owner: string;
  /** As it stands there. */
  readonly name: string;
  readonly at: number;
}

const quote = (text: string): string => text.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&");
const owners: readonly Owner[] = names.owners;
const list = (texts: readonly string[] = []): string => texts.map(quote).join("|");

/** In any text. Variables count there too: a dump of an environment is text. */
const patterns = owners.map(({ owner, parts, words, domains, variables }) => {
  const any = [
    ...(parts ? [list(parts)] : []),
    ...(words ? [`(?<![\\p{L}\\p{N}_])(?:${list(words)})(?![\\p{L}\\p{N}_])`] : []),
    ...(domains ? [`(?<![A-Za-z0-9])(?:${list(domains)})(?![A-Za-z0-9-]|\\.[A-Za-z0-9])`] : []),
    ...(variables ? [`(?<![A-Za-z0-9_])(?:${list(variables)})[A-Z0-9_]*(?==)`] : []),
  ];
  return { owner, pattern: any.length === 0 ? null : new RegExp(any.join("|"), "giu") };
});
const allowed = names.allowed.map((pattern) => new RegExp(pattern, "gi"));

/** Every name in the text, without those that published clients fix. */
export function namesIn(text: string): Hit[] {
  // As long as they were, so that places stay right.
  const rest = allowed.reduce(
    (left, pattern) => left.replace(pattern, (found) => " ".repeat(found.length)),
    text,
  );
  return patterns.flatMap(({ owner, pattern }) =>
    pattern ? [...rest.matchAll(pattern)].map((found) => ({ owner, name: found[0], at: found.index })) : [],
  );
}

const begins = (kind: "headers" | "cookies" | "variables", name: string): Hit[] => {
  if (allowed.some((pattern) => name.replace(pattern, "") === "")) return [];
  return owners
    .filter((one) => one[kind]?.some((start) => name.toLowerCase().startsWith(start.toLowerCase())))
    .map(({ owner }) => ({ owner, name, at: 0 }));
};
export const headerNames = (name: string): Hit[] => begins("headers", name);
export const cookieNames = (name: string): Hit[] => begins("cookies", name);
export const variableNames = (name: string): Hit[] => begins("variables", name);
