import { allowQuery, type Call, headerOf, sendXml } from "./call.ts";
import { requireObject } from "./objects.ts";
import { S3Error } from "./s3-error.ts";
import { renderXml, type XmlMembers } from "./xml.ts";

const known = ["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"];

/** What is known of an object, as far as the client asks for it. */
export async function sendAttributes(call: Call): Promise<void> {
  allowQuery(call, "attributes", "versionId");
  const header = headerOf(call.request, "x-amz-object-attributes") ?? "";
  const wanted = new Set(header.split(",").map((name) => name.trim()));
  if (header === "" || [...wanted].some((name) => !known.includes(name)))
    throw new S3Error("InvalidArgument", `x-amz-object-attributes takes ${known.join(", ")}.`);
  const object = await requireObject(call);
  const members: XmlMembers = {};
  const { checksum, segments } = object;
  if (wanted.has("ETag")) members["ETag"] = object.etag;
  if (wanted.has("Checksum") && checksum)
    members["Checksum"] = {
      [`Checksum${checksum.algorithm}`]: checksum.value,
      ChecksumType: checksum.value.includes("-") ? "COMPOSITE" : "FULL_OBJECT",
    };
  if (wanted.has("ObjectParts") && object.etag.includes("-"))
    members["ObjectParts"] = { TotalPartsCount: segments.length };
  if (wanted.has("StorageClass")) members["StorageClass"] = "STANDARD";
  if (wanted.has("ObjectSize")) members["ObjectSize"] = object.sizeBytes;
  call.response.setHeader("last-modified", object.modifiedAt.toUTCString());
  sendXml(call, renderXml("GetObjectAttributesResponse", members));
}
