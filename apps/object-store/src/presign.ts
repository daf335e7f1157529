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

/** A URL that allows one call on one key without any header but those signed here. */
export function presign(input: PresignInput): string {
  const { origin, credential, contentType } = input;
  if (Buffer.byteLength(input.key) > 1024) throw new S3Error("KeyTooLongError");
  const time = new Date(input.now).toISOString().replace(/[-:]|\.\d+/g, "");
  const scope = `${time.slice(0, 8)}/${input.region}/s3/aws4_request`;
  const isOwnHost = origin.host.startsWith(`${input.bucketName}.s3.`);
  const path = `/${isOwnHost ? "" : `${input.bucketName}/`}${input.key}`.split("/").map(encode).join("/");
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
  const key = scope
    .split("/")
    .reduce<Buffer | string>((previous, part) => hmac(previous, part), `AWS4${credential.secretAccessKey}`);
  const signature = hmac(key, ["AWS4-HMAC-SHA256", time, scope, sha256Hex(canonical)].join("\n")).toString(
    "hex",
  );
  return `${origin.origin}${path}?${query}&X-Amz-Signature=${signature}`;
}
