import { z } from "zod";
import { readSmallBody } from "./body.ts";
import { setVersioning } from "./bucket-index.ts";
import { allowQuery, type Call, send, sendXml } from "./call.ts";
import { afterAll, groupWriter, keyWriter, parseLimit } from "./listing.ts";
import { S3Error } from "./s3-error.ts";
import { type ListedVersion, listVersionRows, sequenceOf } from "./versions.ts";
import { parseXml, renderXml, type XmlMembers } from "./xml.ts";

export function sendVersioning(call: Call): void {
  allowQuery(call, "versioning");
  const { versioning } = call.bucket;
  // A bucket that never kept versions says so by an empty document.
  sendXml(call, renderXml("VersioningConfiguration", { Status: versioning === "" ? undefined : versioning }));
}

const Configuration = z.object({
  VersioningConfiguration: z.object({
    Status: z.enum(["Enabled", "Suspended"]),
    MfaDelete: z.literal("Disabled").optional(),
  }),
});

export async function putVersioning(call: Call): Promise<void> {
  allowQuery(call, "versioning");
  const parsed = Configuration.safeParse(parseXml(await readSmallBody(call.readBody(), 64 << 10)));
  if (!parsed.success) throw new S3Error("MalformedXML", undefined, { cause: parsed.error });
  await setVersioning(call.gateway.pool, call.bucket.id, parsed.data.VersioningConfiguration.Status);
  send(call, 200, {});
}

interface VersionPage {
  versions: ListedVersion[];
  prefixes: string[];
  next: { key: string; versionId: string | null } | null;
}

interface PageOptions {
  prefix: string;
  delimiter: string;
  afterKey: string;
  /** `null`: after all versions of `afterKey`. */
  afterVersion: string | null;
  limit: number;
}

async function versionPage(call: Call, options: PageOptions): Promise<VersionPage> {
  const { prefix, delimiter, limit } = options;
  const groupOf = groupWriter(prefix, delimiter);
  const page: VersionPage = { versions: [], prefixes: [], next: null };
  let from: string | null = options.afterKey;
  let isInclusive = false;
  let sequence: string | null = null;
  if (options.afterVersion !== null) {
    sequence = await sequenceOf(call.gateway.pool, call.bucket.id, from, options.afterVersion);
    if (sequence === null) throw new S3Error("InvalidArgument", "The version id marker is not valid.");
  } else if (from !== "" && from.startsWith(prefix) && groupOf(from) === from) {
    from = afterAll(from);
    isInclusive = true;
  }
  let last: VersionPage["next"] = { key: options.afterKey, versionId: options.afterVersion };
  while (from !== null) {
    const left: number = limit - page.versions.length - page.prefixes.length;
    const place: { from: string; sequence: string | null; isInclusive: boolean } = {
      from,
      sequence,
      isInclusive,
    };
    const rows: ListedVersion[] = await listVersionRows(call.gateway.pool, call.bucket.id, {
      ...place,
      prefix,
      limit: left + 1,
    });
    let group: string | null = null;
    for (const row of rows) {
      if (page.versions.length + page.prefixes.length === limit) return { ...page, next: last };
      group = groupOf(row.key);
      last = group === null ? { key: row.key, versionId: row.versionId } : { key: group, versionId: null };
      if (group !== null) break;
      page.versions.push(row);
    }
    if (group === null) return page;
    page.prefixes.push(group);
    from = afterAll(group);
    isInclusive = true;
    sequence = null;
  }
  return page;
}

export async function listVersions(call: Call): Promise<void> {
  const names = [
    "versions",
    "prefix",
    "delimiter",
    "max-keys",
    "key-marker",
    "version-id-marker",
    "encoding-type",
  ];
  allowQuery(call, ...names);
  const { query } = call;
  const [prefix, delimiter] = [query.get("prefix") ?? "", query.get("delimiter") ?? ""];
  const [afterKey, afterVersion] = [query.get("key-marker") ?? "", query.get("version-id-marker") || null];
  if (afterKey === "" && afterVersion !== null)
    throw new S3Error("InvalidArgument", "A version id marker needs a key marker.");
  const limit = parseLimit(query.get("max-keys"));
  const page =
    limit === 0
      ? { versions: [], prefixes: [], next: null }
      : await versionPage(call, { prefix, delimiter, afterKey, afterVersion, limit });
  const write = keyWriter(call);
  const describe = (row: ListedVersion): XmlMembers => ({
    Key: write(row.key),
    VersionId: row.versionId,
    IsLatest: row.isLatest,
    LastModified: row.modifiedAt.toISOString(),
    ...(row.isDeleteMarker ? {} : { ETag: `"${row.etag}"`, Size: row.sizeBytes, StorageClass: "STANDARD" }),
    Owner: { ID: call.bucket.id, DisplayName: call.bucket.id },
  });
  sendXml(
    call,
    renderXml("ListVersionsResult", {
      Name: call.bucket.name,
      Prefix: write(prefix),
      KeyMarker: write(afterKey),
      VersionIdMarker: afterVersion ?? "",
      NextKeyMarker: page.next ? write(page.next.key) : undefined,
      NextVersionIdMarker: page.next?.versionId ?? undefined,
      Delimiter: delimiter === "" ? undefined : write(delimiter),
      EncodingType: query.get("encoding-type"),
      MaxKeys: limit,
      IsTruncated: page.next !== null,
      Version: page.versions.filter(({ isDeleteMarker }) => !isDeleteMarker).map(describe),
      DeleteMarker: page.versions.filter(({ isDeleteMarker }) => isDeleteMarker).map(describe),
      CommonPrefixes: page.prefixes.map((prefix) => ({ Prefix: write(prefix) })),
    }),
  );
}
