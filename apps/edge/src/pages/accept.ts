/** One entry of an Accept header: RFC 9110 section 12.4.2. */
export interface Accepted {
  readonly value: string;
  /** 0 to 1; 0 refuses. */
  readonly quality: number;
}

const MAX_ENTRIES = 64;

/** Entries by quality, equal ones in the order given; lower case, without parameters. */
export function accepted(header: string | undefined): Accepted[] {
  const entries = (header ?? "")
    .split(",", MAX_ENTRIES)
    .map((part) => {
      const [value = "", ...parameters] = part.split(";").map((piece) => piece.trim().toLowerCase());
      const given = parameters.map((piece) => /^q\s*=\s*(.*)$/.exec(piece)?.[1]).find((q) => q !== undefined);
      // What is no number between 0 and 1 says nothing about the order.
      const isQuality = given !== undefined && /^(?:0(?:\.\d{0,3})?|1(?:\.0{0,3})?)$/.test(given);
      return { value, quality: isQuality ? Number(given) : 1 };
    })
    .filter(({ value }) => value !== "");
  return entries.sort((a, b) => b.quality - a.quality);
}

/**
 * The language to answer in, by RFC 4647's lookup: `es-MX` is content with `es`.
 *
 * @param standard when none is asked for that there is
 */
export function pickLanguage<T extends string>(
  header: string | undefined,
  has: (tag: string) => tag is T,
  standard: T,
): T {
  const entries = accepted(header);
  const refused = new Set(entries.filter(({ quality }) => quality === 0).map(({ value }) => value));
  for (const { value, quality } of entries) {
    if (quality === 0) break;
    if (value === "*") return refused.has(standard) ? ("en" as T) : standard;
    for (let tag = value; tag !== ""; tag = tag.includes("-") ? tag.slice(0, tag.lastIndexOf("-")) : "") {
      if (has(tag) && !refused.has(tag)) return tag;
    }
  }
  return standard;
}
