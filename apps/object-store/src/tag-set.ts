import { z } from "zod";
import type { Tags } from "./bucket-index.ts";
import { S3Error } from "./s3-error.ts";
import { parseXml, type XmlMembers } from "./xml.ts";

const maxTags = { object: 10, bucket: 50 };

const Tagging = z.object({
  Tagging: z.object({
    TagSet: z.union([
      // An empty element is an empty text.
      z.literal("").transform(() => ({ Tag: [] })),
      z.object({ Tag: z.array(z.object({ Key: z.string(), Value: z.string() })).default([]) }),
    ]),
  }),
});

function check(pairs: readonly (readonly [string, string])[], of: "object" | "bucket"): Tags {
  if (pairs.length > maxTags[of])
    throw new S3Error(
      "BadRequest",
      `${of === "object" ? "An object" : "A bucket"} has at most ${maxTags[of]} tags.`,
    );
  const tags: Tags = {};
  for (const [key, value] of pairs) {
    if (
      key === "" ||
      key.length > 128 ||
      value.length > 256 ||
      /[^\p{L}\p{Z}\p{N}_.:/=+\-@]/u.test(key + value)
    )
      throw new S3Error("InvalidTag");
    if (Object.hasOwn(tags, key)) throw new S3Error("InvalidTag", `The tag ${key} is given twice.`);
    tags[key] = value;
  }
  return tags;
}

/** @param header tags as the query of a URL; `undefined` for none */
export function parseTagHeader(header: string | undefined): Tags {
  return check([...new URLSearchParams(header ?? "")], "object");
}

export function parseTagging(document: string, of: "object" | "bucket"): Tags {
  const parsed = Tagging.safeParse(parseXml(document));
  if (!parsed.success) throw new S3Error("MalformedXML", undefined, { cause: parsed.error });
  return check(
    parsed.data.Tagging.TagSet.Tag.map(({ Key, Value }) => [Key, Value] as const),
    of,
  );
}

export const renderTags = (tags: Tags): XmlMembers => ({
  TagSet: { Tag: Object.entries(tags).map(([Key, Value]) => ({ Key, Value })) },
});
