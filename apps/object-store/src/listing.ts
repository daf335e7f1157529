import { type ListedObject, listObjects } from "./bucket-index.ts";
import { allowQuery, type Call, sendXml } from "./call.ts";
import { S3Error } from "./s3-error.ts";
import { encode } from "./sigv4.ts";
import { renderXml, type XmlMembers } from "./xml.ts";

export interface Page {
  objects: ListedObject[];
  /** Groups of keys up to the delimiter. */
  prefixes: string[];
  /** Where the next page begins after, `null` if this is the last. */
  next: string | null;
}

/** The first text after everything that begins with `prefix`, in byte order. */
export function afterAll(prefix: string): string | null {
  const points = [...prefix].map((character) => character.codePointAt(0)!);
  for (let point = points.pop(); point !== undefined; point = points.pop()) {
    if (point === 0x10ffff) continue;
    // Surrogates are no characters of their own.
    return String.fromCodePoint(...points, point === 0xd7ff ? 0xe000 : point + 1);
  }
  return null;
}

/** @returns the group of a key: what it begins with, up to the first delimiter after the prefix; `null` if it has none */
export const groupWriter =
  (prefix: string, delimiter: string) =>
  (key: string): string | null => {
    const end = delimiter === "" ? -1 : key.indexOf(delimiter, prefix.length);
    return end < 0 ? null : key.slice(0, end + delimiter.length);
  };

/** @param limit most objects and prefixes together */
export async function listPage(
  call: Pick<Call, "gateway" | "bucket">,
  options: { prefix: string; delimiter: string; after: string; limit: number },
): Promise<Page> {
  const { prefix, delimiter, limit } = options;
  const groupOf = groupWriter(prefix, delimiter);
  const page: Page = { objects: [], prefixes: [], next: null };
  let from: string | null = options.after;
  let isInclusive = false;
  // A page may have ended with a group; the next one begins after all of its keys.
  if (from.startsWith(prefix) && from !== "" && groupOf(from) === from) {
    from = afterAll(from);
    isInclusive = true;
  }
  let last = options.after;
  while (from !== null) {
    const left: number = limit - page.objects.length - page.prefixes.length;
    const rows: ListedObject[] = await listObjects(call.gateway.pool, call.bucket.id, {
      prefix,
      from,
      isInclusive,
      limit: left + 1,
    });
    let group: string | null = null;
    for (const row of rows) {
      if (page.objects.length + page.prefixes.length === limit) return { ...page, next: last };
      group = groupOf(row.key);
      last = group ?? row.key;
      if (group !== null) break;
      page.objects.push(row);
    }
    if (group === null) return page;
    page.prefixes.push(group);
    from = afterAll(group);
    isInclusive = true;
  }
  return page;
}

export function parseLimit(text: string | undefined): number {
  if (text === undefined || text === "") return 1000;
  if (!/^\d{1,9}$/.test(text)) throw new S3Error("InvalidArgument", "The limit is not a number.");
  return Math.min(Number(text), 1000);
}

/** How keys are written: encoded if the client asks, since XML cannot hold every character. */
export function keyWriter(call: Call): (key: string) => string {
  const type = call.query.get("encoding-type");
  if (type === undefined) return (key) => key;
  if (type !== "url") throw new S3Error("InvalidArgument", "The encoding type must be url.");
  return (key) => key.split("/").map(encode).join("/");
}

const contents = (page: Page, write: (key: string) => string): XmlMembers => ({
  Contents: page.objects.map(({ key, etag, sizeBytes, modifiedAt }) => ({
    Key: write(key),
    LastModified: modifiedAt.toISOString(),
    ETag: `"${etag}"`,
    Size: sizeBytes,
    StorageClass: "STANDARD",
  })),
  CommonPrefixes: page.prefixes.map((prefix) => ({ Prefix: write(prefix) })),
});

const emptyPage: Page = { objects: [], prefixes: [], next: null };

export async function listV2(call: Call): Promise<void> {
  allowQuery(
    call,
    "list-type",
    "prefix",
    "delimiter",
    "max-keys",
    "start-after",
    "continuation-token",
    "encoding-type",
    "fetch-owner",
  );
  const { query } = call;
  const token = query.get("continuation-token");
  const after = token === undefined ? (query.get("start-after") ?? "") : readToken(token);
  const [prefix, delimiter] = [query.get("prefix") ?? "", query.get("delimiter") ?? ""];
  const limit = parseLimit(query.get("max-keys"));
  const page = limit === 0 ? emptyPage : await listPage(call, { prefix, delimiter, after, limit });
  const write = keyWriter(call);
  sendXml(
    call,
    renderXml("ListBucketResult", {
      Name: call.bucket.name,
      Prefix: write(prefix),
      Delimiter: delimiter === "" ? undefined : write(delimiter),
      StartAfter: query.has("start-after") ? write(query.get("start-after")!) : undefined,
      ContinuationToken: token,
      NextContinuationToken:
        page.next === null ? undefined : Buffer.from(`k${page.next}`).toString("base64url"),
      EncodingType: query.get("encoding-type"),
      KeyCount: page.objects.length + page.prefixes.length,
      MaxKeys: limit,
      IsTruncated: page.next !== null,
      ...contents(page, write),
    }),
  );
}

function readToken(token: string): string {
  const text = Buffer.from(token, "base64url").toString("utf8");
  if (!text.startsWith("k") || text.includes("\0"))
    throw new S3Error("InvalidArgument", "The continuation token is not valid.");
  return text.slice(1);
}

export async function listV1(call: Call): Promise<void> {
  allowQuery(call, "prefix", "delimiter", "max-keys", "marker", "encoding-type");
  const { query } = call;
  const [prefix, delimiter] = [query.get("prefix") ?? "", query.get("delimiter") ?? ""];
  const marker = query.get("marker") ?? "";
  const limit = parseLimit(query.get("max-keys"));
  const page = limit === 0 ? emptyPage : await listPage(call, { prefix, delimiter, after: marker, limit });
  const write = keyWriter(call);
  sendXml(
    call,
    renderXml("ListBucketResult", {
      Name: call.bucket.name,
      Prefix: write(prefix),
      Marker: write(marker),
      Delimiter: delimiter === "" ? undefined : write(delimiter),
      NextMarker: page.next === null ? undefined : write(page.next),
      EncodingType: query.get("encoding-type"),
      MaxKeys: limit,
      IsTruncated: page.next !== null,
      ...contents(page, write),
    }),
  );
}
