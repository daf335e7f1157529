import { createHmac } from "node:crypto";
import { S3Error } from "./s3-error.ts";
import { encode, sha256Hex } from "./sigv4.ts";

export interface PresignInput {
  method: "GET" | "PUT";
  /** Where clients reach the bucket: its own host name, or one that takes its name in the path. */
  origin: URL;
  bucketName: string;
  key: string;
  /** Seconds, from 1 to 604,800. */
  expiresSeconds: number;
  /** What the client must then send. */
  contentType?: string;
  region: string;
  credential: { accessKeyId: string; secretAccessKey: string };
  /** Milliseconds since the epoch. */
  now: number;
}

const hmac = (key: Buffer | string, text: string) => createHmac("sha256", key).update(text).digest();

interface Signing {
  /** `YYYYMMDDTHHMMSSZ`. */
  time: string;
  scope: string;
  sign(text: string): string;
}

function signing({ now, region, credential }: Pick<PresignInput, "now" | "region" | "credential">): Signing {
  const time = new Date(now).toISOString().replace(/[-:]|\.\d+/g, "");
  const scope = `${time.slice(0, 8)}/${region}/s3/aws4_request`;
  const key = scope
    .split("/")
    .reduce<Buffer | string>((previous, part) => hmac(previous, part), `AWS4${credential.secretAccessKey}`);
  return { time, scope, sign: (text) => hmac(key, text).toString("hex") };
}

const isOwnHost = ({ origin, bucketName }: Pick<PresignInput, "origin" | "bucketName">) =>
  origin.host.startsWith(`${bucketName}.s3.`);

/** A URL that allows one call on one key without any header but those signed here. */
export function presign(input: PresignInput): string {
  const { origin, credential, contentType } = input;
  if (Buffer.byteLength(input.key) > 1024) throw new S3Error("KeyTooLongError");
  const { time, scope, sign } = signing(input);
  const path = `/${isOwnHost(input) ? "" : `${input.bucketName}/`}${input.key}`
    .split("/")
    .map(encode)
    .join("/");
  const signedHeaders = contentType === undefined ? "host" : "content-type;host";
  const query = [
    ["X-Amz-Algorithm", "AWS4-HMAC-SHA256"],
    ["X-Amz-Credential", `${credential.accessKeyId}/${scope}`],
    ["X-Amz-Date", time],
    ["X-Amz-Expires", String(input.expiresSeconds)],
    ["X-Amz-SignedHeaders", signedHeaders],
  ]
    .map(([name, value]) => `${name}=${encode(value!)}`)
    .join("&");
  const headers = `${contentType === undefined ? "" : `content-type:${contentType}\n`}host:${origin.host}\n`;
  const canonical = [input.method, path, query, headers, signedHeaders, "UNSIGNED-PAYLOAD"].join("\n");
  const signature = sign(["AWS4-HMAC-SHA256", time, scope, sha256Hex(canonical)].join("\n"));
  return `${origin.origin}${path}?${query}&X-Amz-Signature=${signature}`;
}

export interface PresignPostInput extends Omit<PresignInput, "method" | "contentType"> {
  /** What the type of the file must begin with. */
  contentType?: string | undefined;
  minBytes: number;
  maxBytes: number;
  redirectTo?: string | undefined;
}

/** Fields that a browser's form sends before its file, in a policy that allows nothing else. */
export function presignPost(input: PresignPostInput) {
  const { time, scope, sign } = signing(input);
  const { key, contentType, redirectTo } = input;
  const fields: Record<string, string> = {
    key,
    "x-amz-algorithm": "AWS4-HMAC-SHA256",
    "x-amz-credential": `${input.credential.accessKeyId}/${scope}`,
    "x-amz-date": time,
    ...(redirectTo === undefined ? {} : { success_action_redirect: redirectTo }),
  };
  const isExact = contentType !== undefined && /^[^/]+\/[^/]+$/.test(contentType);
  if (isExact) fields["content-type"] = contentType;
  const prefix = key.endsWith("${filename}") ? key.slice(0, -"${filename}".length) : null;
  const exact = Object.entries(fields).filter(([name]) => name !== "key" || prefix === null);
  const conditions: unknown[] = [
    { bucket: input.bucketName },
    ...exact.map(([name, value]) => ({ [name]: value })),
    ...(prefix === null ? [] : [["starts-with", "$key", prefix]]),
    // A browser may send the type that it knows; without a wish for one, any.
    ...(isExact ? [] : [["starts-with", "$content-type", contentType ?? ""]]),
    ["content-length-range", input.minBytes, input.maxBytes],
  ];
  const expiresAt = new Date(input.now + input.expiresSeconds * 1000).toISOString();
  const policy = Buffer.from(JSON.stringify({ expiration: expiresAt, conditions })).toString("base64");
  const url = isOwnHost(input) ? `${input.origin.origin}/` : `${input.origin.origin}/${input.bucketName}`;
  return { url, fields: { ...fields, policy, "x-amz-signature": sign(policy) }, expiresAt };
}
