import type { IncomingMessage, ServerResponse } from "node:http";
import type { Readable } from "node:stream";
import busboy from "busboy";
import { authorize } from "./access.ts";
import { createMeter } from "./body.ts";
import type { Bucket } from "./bucket-index.ts";
import { checkKey, type Gateway, send } from "./call.ts";
import { allowOrigin } from "./cors.ts";
import { type Credential, findCredential } from "./credentials.ts";
import { checkQuota, describe, storeBody, tellVersion } from "./objects.ts";
import { checkPolicy, parsePolicy, type PostPolicy } from "./post-policy.ts";
import { S3Error } from "./s3-error.ts";
import { encode, parseCredential, verifyPolicy } from "./sigv4.ts";
import { commitObject } from "./versions.ts";
import { renderXml } from "./xml.ts";

const maxFormBytes = 5 * 2 ** 30;

export const isPostForm = (request: IncomingMessage): boolean =>
  /^multipart\/form-data\b/i.test(request.headers["content-type"] ?? "");

export interface PostCall {
  gateway: Gateway;
  request: IncomingMessage;
  response: ServerResponse;
  requestId: string;
  bucketName: string;
  mustContinue: boolean;
}

/** The fields before the file, names in lower case, and the file as a stream. */
interface Form {
  fields: Map<string, string>;
  file: Readable;
  filename: string;
}

function readForm(request: IncomingMessage): Promise<Form> {
  return new Promise((resolve, reject) => {
    const fail = (error: unknown) =>
      reject(
        error instanceof S3Error ? error : new S3Error("MalformedPOSTRequest", undefined, { cause: error }),
      );
    let parser: busboy.Busboy;
    try {
      parser = busboy({
        headers: request.headers,
        defParamCharset: "utf8",
        limits: { fields: 100, fieldSize: 20 << 10, fieldNameSize: 200, files: 1, fileSize: maxFormBytes },
      });
    } catch (error) {
      return fail(error);
    }
    const fields = new Map<string, string>();
    let bytes = 0;
    parser.on("field", (name, value, { valueTruncated }) => {
      bytes += name.length + value.length;
      if (valueTruncated || bytes > 20 << 10)
        return fail(
          new S3Error("MalformedPOSTRequest", "The fields before the file are larger than 20 KiB."),
        );
      if (fields.has(name.toLowerCase()))
        return fail(new S3Error("InvalidArgument", `The field ${name} is given twice.`));
      fields.set(name.toLowerCase(), value);
    });
    parser.on("file", (_name, file, { filename }) => resolve({ fields, file, filename: filename ?? "" }));
    parser.on("close", () => fail(new S3Error("InvalidArgument", "The form has no file field.")));
    parser.on("error", fail);
    request.on("error", fail);
    request.on("aborted", () => parser.destroy(new Error("the client went away")));
    request.pipe(parser);
  });
}

interface Allowed {
  credential: Credential;
  policy: PostPolicy;
  bucket: Bucket;
  key: string;
}

async function allow(call: PostCall, { fields, filename }: Form): Promise<Allowed> {
  const { gateway } = call;
  const [policyText, signature] = [fields.get("policy"), fields.get("x-amz-signature")];
  if (policyText === undefined || signature === undefined)
    throw new S3Error("AccessDenied", "A form without a signed policy is refused.");
  if (fields.get("x-amz-algorithm") !== "AWS4-HMAC-SHA256")
    throw new S3Error("InvalidArgument", "x-amz-algorithm must be AWS4-HMAC-SHA256.");
  const claim = parseCredential(
    fields.get("x-amz-credential") ?? "",
    fields.get("x-amz-date") ?? "",
    "AuthorizationQueryParametersError",
  );
  const credential = await findCredential(gateway.pool, gateway.sealer, claim.accessKeyId);
  if (!credential) throw new S3Error("InvalidAccessKeyId");
  verifyPolicy(policyText, claim.scope, signature, credential.secretAccessKey);
  const policy = parsePolicy(policyText);
  const template = fields.get("key");
  if (template === undefined || template === "")
    throw new S3Error("InvalidArgument", "The field key is missing.");
  // A browser may send a whole path of its user's machine.
  const key = template.replaceAll("${filename}", () => filename.replace(/^.*[\\/]/s, ""));
  checkKey(key);
  // Conditions are about what was sent: a prefix that ends before ${filename} fits both forms.
  checkPolicy(policy, new Map([...fields, ["bucket", call.bucketName]]), gateway.now());
  const bucket = await authorize(gateway, { credential }, call.bucketName, key, "put");
  return { credential, policy, bucket, key };
}

/** Tells the page that uploaded where its file is, in the way that it asked for. */
function sendResult(
  call: PostCall,
  fields: ReadonlyMap<string, string>,
  bucket: Bucket,
  key: string,
  etag: string,
) {
  const { response, request } = call;
  const scheme = request.headers["x-forwarded-proto"] === "https" ? "https" : "http";
  const path = [bucket.name, ...key.split("/")].map(encode).join("/");
  const location = `${scheme}://${request.headers.host ?? ""}/${path}`;
  response.setHeader("etag", `"${etag}"`);
  const redirect = fields.get("success_action_redirect");
  if (redirect !== undefined && URL.canParse(redirect) && /^https?:/i.test(redirect)) {
    const url = new URL(redirect);
    for (const [name, value] of [
      ["bucket", bucket.name],
      ["key", key],
      ["etag", `"${etag}"`],
    ] as const)
      url.searchParams.set(name, value);
    return send({ response }, 303, { location: url.href });
  }
  response.setHeader("location", location);
  const status = fields.get("success_action_status");
  if (status === "201") {
    const body = renderXml("PostResponse", {
      Location: location,
      Bucket: bucket.name,
      Key: key,
      ETag: `"${etag}"`,
    });
    return send({ response }, 201, { "content-type": "application/xml" }, body);
  }
  send({ response }, status === "200" ? 200 : 204, {});
}

/** An upload by a form of a browser, allowed by a signed policy. */
export async function postObject(call: PostCall): Promise<void> {
  const { gateway, request, response } = call;
  if (call.mustContinue) response.writeContinue();
  const form = await readForm(request);
  try {
    const { policy, bucket, key } = await allow(call, form);
    allowOrigin(request, response, bucket);
    const described = describe(Object.fromEntries(form.fields));
    if (form.fields.has("tagging"))
      throw new S3Error("NotImplemented", "Send tags in the field x-amz-tagging, as in a query.");
    const [least, most] = policy.sizeRange ?? [0, maxFormBytes];
    checkQuota({ bucket }, Math.min(Number(request.headers["content-length"] ?? 0), least));
    const meter = createMeter(form.file, { least, most });
    const stored = await storeBody({ gateway }, meter, async (segment) => {
      const etag = meter.result().md5.toString("hex");
      const object = {
        ...described,
        ...{ key, sizeBytes: segment.sizeBytes, etag, checksum: null, segments: [segment] },
      };
      const written = await commitObject(gateway.pool, bucket.id, object);
      await gateway.blobs.remove(written.blobs);
      tellVersion({ bucket, response }, written.versionId);
      return etag;
    });
    sendResult(call, form.fields, bucket, key, stored);
  } finally {
    form.file.resume();
  }
}
