import { request } from "node:http";
import { text } from "node:stream/consumers";
import * as s3 from "@aws-sdk/client-s3";
import { createPresignedPost, type PresignedPost } from "@aws-sdk/s3-presigned-post";
import { getSignedUrl } from "@aws-sdk/s3-request-presigner";
import type { Attempt } from "@platform/daemon/testing";
import type { TestBucket } from "./testing-store.ts";

/** One tenant's key, and what it was told or guessed of the other's bucket. */
export interface Intruder {
  readonly url: string;
  readonly own: TestBucket;
  readonly other: TestBucket;
  /** Of an upload in parts that the other has begun, and of the object below. */
  readonly uploadId: string;
  readonly versionId: string;
}

/** In each bucket. */
export const key = "secret.txt";

const denied = /AccessDenied|403/;
const wrongSignature = /SignatureDoesNotMatch/;
const noUpload = /NoSuchUpload/;

type Names = { Bucket: string; Key: string };
const theirs = ({ other }: Intruder): Names => ({ Bucket: other.name, Key: key });
const mine = ({ own }: Intruder): Names => ({ Bucket: own.name, Key: "copy" });

/** An answer to HEAD has no words, only a status. */
function withStatus(error: unknown): Error {
  const { name, message, $metadata } = error as s3.S3ServiceException;
  return new Error(`${$metadata?.httpStatusCode ?? ""} ${name}: ${message}`, { cause: error });
}

/** Sent with the own key; an answer's content is read to its end. */
const call = (
  name: string,
  refused: RegExp | undefined,
  command: (of: Intruder) => { readonly input: object },
): Attempt<Intruder> => ({
  name,
  ...(refused ? { refused } : {}),
  run: async (of) => {
    const answer = (await of.own.client
      .send(command(of) as s3.GetObjectCommand)
      .catch((error: unknown) => Promise.reject(withStatus(error)))) as { Body?: unknown };
    const body = answer.Body as { transformToString(): Promise<string> } | undefined;
    return { ...answer, Body: await body?.transformToString() };
  },
});

interface Sent {
  readonly method?: string;
  readonly headers?: Record<string, string>;
  readonly body?: string | FormData;
}

const http = (
  name: string,
  refused: RegExp,
  target: (of: Intruder) => Promise<string> | string,
  sent: (of: Intruder) => Sent = () => ({}),
): Attempt<Intruder> => ({
  name,
  refused,
  run: async (of) => judge(await fetchAs(await target(of), sent(of))),
});

/** By node:http, as fetch tidies up paths and keeps the Host header to itself. */
async function fetchAs(url: string, { method = "GET", headers = {}, body }: Sent): Promise<[number, string]> {
  if (body instanceof FormData) {
    const response = await fetch(url, { method, headers, body });
    return [response.status, await response.text()];
  }
  const { hostname, port } = new URL(url);
  const path = url.slice(url.indexOf("/", "http://".length));
  const sent = request({ hostname, port, path, method, headers, agent: false });
  sent.end(body);
  const response = await new Promise<Parameters<typeof text>[0] & { statusCode?: number }>(
    (resolve, reject) => {
      sent.on("response", resolve);
      sent.on("error", reject);
    },
  );
  return [response.statusCode ?? 0, await text(response)];
}

function judge([status, body]: [number, string]): string {
  if (status < 300) return body;
  throw new Error(`${status} ${/<Code>(\w+)</.exec(body)?.[1] ?? body}`);
}

const presign = ({ own }: Intruder, command: s3.GetObjectCommand | s3.PutObjectCommand) =>
  getSignedUrl(own.client, command as s3.GetObjectCommand, { expiresIn: 60 });

const formOf = (post: PresignedPost, change: Record<string, string> = {}): FormData => {
  const form = new FormData();
  for (const [name, value] of Object.entries({ ...post.fields, ...change })) form.append(name, value);
  form.append("file", new File(["overwritten"], "x.txt"));
  return form;
};

const post = (
  name: string,
  refused: RegExp,
  make: (of: Intruder) => Promise<{ url: string; form: FormData }>,
): Attempt<Intruder> => ({
  name,
  refused,
  run: async (of) => {
    const { url, form } = await make(of);
    return judge(await fetchAs(url, { method: "POST", body: form }));
  },
});

const signPost = ({ own }: Intruder, Bucket: string, Key: string) =>
  createPresignedPost(own.client, { Bucket, Key, Expires: 60 });

const objects: Attempt<Intruder>[] = [
  call("GetObject", denied, (of) => new s3.GetObjectCommand(theirs(of))),
  call("HeadObject", denied, (of) => new s3.HeadObjectCommand(theirs(of))),
  call(
    "GetObjectAttributes",
    denied,
    (of) => new s3.GetObjectAttributesCommand({ ...theirs(of), ObjectAttributes: ["ETag"] }),
  ),
  call("GetObjectTagging", denied, (of) => new s3.GetObjectTaggingCommand(theirs(of))),
  call("PutObject", denied, (of) => new s3.PutObjectCommand({ ...theirs(of), Body: "overwritten" })),
  call(
    "PutObjectTagging",
    denied,
    (of) =>
      new s3.PutObjectTaggingCommand({ ...theirs(of), Tagging: { TagSet: [{ Key: "a", Value: "b" }] } }),
  ),
  call("DeleteObject", denied, (of) => new s3.DeleteObjectCommand(theirs(of))),
  call(
    "DeleteObject of a version",
    denied,
    (of) => new s3.DeleteObjectCommand({ ...theirs(of), VersionId: of.versionId }),
  ),
  call(
    "DeleteObjects",
    denied,
    ({ other }) => new s3.DeleteObjectsCommand({ Bucket: other.name, Delete: { Objects: [{ Key: key }] } }),
  ),
  call(
    "the version's id at the own bucket",
    /NoSuch(Key|Version)|InvalidArgument/,
    ({ own, versionId }) => new s3.GetObjectCommand({ Bucket: own.name, Key: key, VersionId: versionId }),
  ),
];

const buckets: Attempt<Intruder>[] = [
  call("ListObjectsV2", denied, ({ other }) => new s3.ListObjectsV2Command({ Bucket: other.name })),
  call("ListObjects", denied, ({ other }) => new s3.ListObjectsCommand({ Bucket: other.name })),
  call("ListObjectVersions", denied, ({ other }) => new s3.ListObjectVersionsCommand({ Bucket: other.name })),
  call(
    "ListMultipartUploads",
    denied,
    ({ other }) => new s3.ListMultipartUploadsCommand({ Bucket: other.name }),
  ),
  call(
    "the own list with the other's prefix",
    undefined,
    ({ own, other }) => new s3.ListObjectsV2Command({ Bucket: own.name, Prefix: `../${other.name}/` }),
  ),
  call(
    "the own list from the other's key on",
    undefined,
    ({ own, other }) => new s3.ListObjectsV2Command({ Bucket: own.name, StartAfter: `${other.name}/` }),
  ),
  call("HeadBucket", denied, ({ other }) => new s3.HeadBucketCommand({ Bucket: other.name })),
  call("GetBucketLocation", denied, ({ other }) => new s3.GetBucketLocationCommand({ Bucket: other.name })),
  call(
    "GetBucketVersioning",
    denied,
    ({ other }) => new s3.GetBucketVersioningCommand({ Bucket: other.name }),
  ),
  call(
    "PutBucketVersioning",
    denied,
    ({ other }) =>
      new s3.PutBucketVersioningCommand({
        Bucket: other.name,
        VersioningConfiguration: { Status: "Suspended" },
      }),
  ),
  call(
    "PutBucketCors",
    denied,
    ({ other }) =>
      new s3.PutBucketCorsCommand({
        Bucket: other.name,
        CORSConfiguration: { CORSRules: [{ AllowedOrigins: ["*"], AllowedMethods: ["GET"] }] },
      }),
  ),
  call(
    "PutBucketLifecycle",
    denied,
    ({ other }) =>
      new s3.PutBucketLifecycleConfigurationCommand({
        Bucket: other.name,
        LifecycleConfiguration: {
          Rules: [{ ID: "a", Status: "Enabled", Filter: { Prefix: "" }, Expiration: { Days: 1 } }],
        },
      }),
  ),
  call(
    "PutBucketPolicy",
    /AccessDenied|NotImplemented/,
    ({ other }) => new s3.PutBucketPolicyCommand({ Bucket: other.name, Policy: "{}" }),
  ),
  call(
    "PutBucketAcl",
    /AccessDenied|NotImplemented/,
    ({ other }) => new s3.PutBucketAclCommand({ Bucket: other.name, ACL: "public-read" }),
  ),
  call(
    "DeleteBucket",
    /AccessDenied|NotImplemented/,
    ({ other }) => new s3.DeleteBucketCommand({ Bucket: other.name }),
  ),
];

const uploads: Attempt<Intruder>[] = [
  call("CreateMultipartUpload", denied, (of) => new s3.CreateMultipartUploadCommand(theirs(of))),
  call(
    "ListParts of the other's upload",
    denied,
    (of) => new s3.ListPartsCommand({ ...theirs(of), UploadId: of.uploadId }),
  ),
  call(
    "UploadPart to the other's upload",
    denied,
    (of) => new s3.UploadPartCommand({ ...theirs(of), UploadId: of.uploadId, PartNumber: 1, Body: "x" }),
  ),
  call(
    "CompleteMultipartUpload of the other's upload",
    denied,
    (of) =>
      new s3.CompleteMultipartUploadCommand({
        ...theirs(of),
        UploadId: of.uploadId,
        MultipartUpload: { Parts: [{ PartNumber: 1, ETag: '"x"' }] },
      }),
  ),
  call(
    "AbortMultipartUpload of the other's upload",
    denied,
    (of) => new s3.AbortMultipartUploadCommand({ ...theirs(of), UploadId: of.uploadId }),
  ),
  call(
    "ListParts by the other's upload id at the own bucket",
    noUpload,
    (of) => new s3.ListPartsCommand({ ...mine(of), Key: key, UploadId: of.uploadId }),
  ),
  call(
    "UploadPart by the other's upload id at the own bucket",
    noUpload,
    (of) =>
      new s3.UploadPartCommand({ ...mine(of), Key: key, UploadId: of.uploadId, PartNumber: 1, Body: "x" }),
  ),
  call(
    "CompleteMultipartUpload by the other's upload id at the own bucket",
    noUpload,
    (of) =>
      new s3.CompleteMultipartUploadCommand({
        ...mine(of),
        Key: key,
        UploadId: of.uploadId,
        MultipartUpload: { Parts: [{ PartNumber: 1, ETag: '"x"' }] },
      }),
  ),
  call(
    "AbortMultipartUpload by the other's upload id at the own bucket",
    noUpload,
    (of) => new s3.AbortMultipartUploadCommand({ ...mine(of), Key: key, UploadId: of.uploadId }),
  ),
];

const copy = (name: string, refused: RegExp, source: (of: Intruder) => string) =>
  call(name, refused, (of) => new s3.CopyObjectCommand({ ...mine(of), CopySource: source(of) }));

const copies: Attempt<Intruder>[] = [
  copy("CopyObject of the other's object", denied, ({ other }) => `${other.name}/${key}`),
  copy("CopyObject with a slash first", denied, ({ other }) => `/${other.name}/${key}`),
  copy(
    "CopyObject with an encoded slash",
    /AccessDenied|InvalidArgument/,
    ({ other }) => `${other.name}%2F${key}`,
  ),
  copy(
    "CopyObject of a version",
    denied,
    ({ other, versionId }) => `${other.name}/${key}?versionId=${versionId}`,
  ),
  copy(
    "CopyObject by way of the own bucket",
    /NoSuchKey/,
    ({ own, other }) => `${own.name}/../${other.name}/${key}`,
  ),
  call(
    "CopyObject into the other's bucket",
    denied,
    (of) => new s3.CopyObjectCommand({ ...theirs(of), CopySource: `${of.own.name}/${key}` }),
  ),
  {
    name: "UploadPartCopy of the other's object",
    refused: denied,
    run: async (of) => {
      const { UploadId } = await of.own.client.send(new s3.CreateMultipartUploadCommand(mine(of)));
      const CopySource = `${of.other.name}/${key}`;
      return of.own.client.send(
        new s3.UploadPartCopyCommand({ ...mine(of), UploadId, PartNumber: 1, CopySource }),
      );
    },
  },
];

const paths: Attempt<Intruder>[] = [
  call(
    "a key with two dots",
    /NoSuchKey/,
    ({ own, other }) => new s3.GetObjectCommand({ Bucket: own.name, Key: `../${other.name}/${key}` }),
  ),
  call(
    "a key that is a path of the machine",
    /NoSuchKey/,
    ({ own }) => new s3.GetObjectCommand({ Bucket: own.name, Key: "../../../../../../etc/passwd" }),
  ),
  call(
    "a key with a null",
    /NoSuchKey|InvalidArgument|InvalidURI|400/,
    ({ own, other }) => new s3.GetObjectCommand({ Bucket: own.name, Key: `a\0/../${other.name}/${key}` }),
  ),
  call(
    "a write to a key with two dots",
    undefined,
    ({ own, other }) =>
      new s3.PutObjectCommand({ Bucket: own.name, Key: `../${other.name}/${key}`, Body: "overwritten" }),
  ),
  call(
    "a bucket that is a path",
    /NoSuchBucket|InvalidBucketName|AccessDenied|NoSuchKey|SignatureDoesNotMatch/,
    ({ own, other }) => new s3.GetObjectCommand({ Bucket: `${own.name}/../${other.name}`, Key: key }),
  ),
];

const signatures: Attempt<Intruder>[] = [
  http("a presigned GET of the other's key", denied, (of) =>
    presign(of, new s3.GetObjectCommand(theirs(of))),
  ),
  http(
    "a presigned PUT of the other's key",
    denied,
    (of) => presign(of, new s3.PutObjectCommand(theirs(of))),
    () => ({ method: "PUT", body: "overwritten" }),
  ),
  http("an own presigned URL with the other's bucket", wrongSignature, async (of) =>
    (await presign(of, new s3.GetObjectCommand({ ...theirs(of), Bucket: of.own.name }))).replace(
      `/${of.own.name}/`,
      `/${of.other.name}/`,
    ),
  ),
  http("an own presigned URL with two dots to the other's bucket", wrongSignature, async (of) =>
    (await presign(of, new s3.GetObjectCommand({ ...theirs(of), Bucket: of.own.name }))).replace(
      `/${of.own.name}/`,
      `/${of.own.name}/../${of.other.name}/`,
    ),
  ),
  http(
    "an own presigned URL under the other's host name",
    wrongSignature,
    (of) => presign(of, new s3.GetObjectCommand({ ...theirs(of), Bucket: of.own.name })),
    ({ other }) => ({ headers: { host: `${other.name}.s3.localhost` } }),
  ),
  http("an own signature under the other's key id", wrongSignature, async (of) =>
    (await presign(of, new s3.GetObjectCommand(theirs(of)))).replace(
      of.own.accessKeyId,
      of.other.accessKeyId,
    ),
  ),
  http(
    "another method behind a presigned GET",
    /403|405/,
    (of) => presign(of, new s3.GetObjectCommand(theirs(of))),
    () => ({ headers: { "x-http-method-override": "DELETE" } }),
  ),
  {
    name: "the other's key id with the own secret",
    refused: wrongSignature,
    run: (of) => {
      const { accessKeyId } = of.other;
      const credentials = { accessKeyId, secretAccessKey: of.own.secretAccessKey };
      return of.own.clientWith({ credentials }).send(new s3.GetObjectCommand(theirs(of)));
    },
  },
  http("no signature", denied, ({ url, other }) => `${url}/${other.name}/${key}`),
  http(
    "no signature, by host name",
    denied,
    ({ url }) => `${url}/${key}`,
    ({ other }) => ({ headers: { host: `${other.name}.s3.localhost` } }),
  ),
];

const forms: Attempt<Intruder>[] = [
  post("a POST policy for the other's bucket", denied, async (of) => {
    const signed = await signPost(of, of.other.name, key);
    return { url: signed.url, form: formOf(signed) };
  }),
  post("an own POST policy sent to the other's bucket", denied, async (of) => {
    const signed = await signPost(of, of.own.name, key);
    return { url: `${of.url}/${of.other.name}`, form: formOf(signed) };
  }),
  post("an own POST policy with the other's bucket named", denied, async (of) => {
    const signed = await signPost(of, of.own.name, key);
    return { url: `${of.url}/${of.other.name}`, form: formOf(signed, { bucket: of.other.name }) };
  }),
  post("a POST policy changed after it was signed", wrongSignature, async (of) => {
    const signed = await signPost(of, of.own.name, key);
    const policy = { expiration: "2999-01-01T00:00:00Z", conditions: [{ bucket: of.other.name }, { key }] };
    const Policy = Buffer.from(JSON.stringify(policy)).toString("base64");
    return { url: `${of.url}/${of.other.name}`, form: formOf(signed, { Policy, bucket: of.other.name }) };
  }),
  post("a POST policy under the other's key id", wrongSignature, async (of) => {
    const signed = await signPost(of, of.other.name, key);
    const credential = signed.fields["X-Amz-Credential"]!.replace(of.own.accessKeyId, of.other.accessKeyId);
    return { url: signed.url, form: formOf(signed, { "X-Amz-Credential": credential }) };
  }),
  post("a POST without a policy", denied, async (of) => {
    const { Policy: _, ...fields } = (await signPost(of, of.other.name, key)).fields;
    return { url: `${of.url}/${of.other.name}`, form: formOf({ url: "", fields }) };
  }),
];

const inside = (name: string, path: string, headers: (of: Intruder) => Record<string, string>) =>
  http(
    name,
    /401|403|404/,
    ({ url, other }) => `${url}/internal/buckets/id-${other.name}/${path}`,
    (of) => ({
      headers: headers(of),
      method: path === "usage" ? "GET" : "POST",
      body: path === "usage" ? "" : "{}",
    }),
  );

const machinery: Attempt<Intruder>[] = [
  inside("the platform's own door without a token", "usage", () => ({})),
  inside("the platform's own door with the own secret", "usage", ({ own }) => ({
    authorization: `Bearer ${own.secretAccessKey}`,
  })),
  inside("a new key for the other's bucket", "credentials", ({ own }) => ({
    authorization: `Bearer ${own.secretAccessKey}`,
  })),
  inside("a presigned URL from the platform's own door", "presign", ({ own }) => ({
    authorization: `Bearer ${own.secretAccessKey}`,
  })),
];

/** What the holder of one bucket's key tries on another bucket. */
export const attempts: readonly Attempt<Intruder>[] = [
  ...[...objects, ...buckets, ...uploads, ...copies],
  ...[...paths, ...signatures, ...forms, ...machinery],
];
