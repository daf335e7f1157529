import type { IncomingMessage, ServerResponse } from "node:http";
import { z } from "zod";
import { readSmallBody } from "./body.ts";
import { type Bucket, findBucketByName, setDocument } from "./bucket-index.ts";
import { allowQuery, type Call, type Gateway, headerOf, send, sendXml } from "./call.ts";
import { S3Error } from "./s3-error.ts";
import { parseXml, renderXml } from "./xml.ts";

const methods = ["GET", "PUT", "POST", "DELETE", "HEAD"] as const;

/** At most one `*`, which stands for any text. */
const Pattern = z
  .string()
  .min(1)
  .max(512)
  .regex(/^[^*]*\*?[^*]*$/)
  .regex(/^[\x21-\x7e]+$/);

const Rule = z.object({
  ID: z.string().max(255).optional(),
  AllowedOrigin: z.array(Pattern).min(1).max(100),
  AllowedMethod: z.array(z.enum(methods)).min(1),
  AllowedHeader: z.array(Pattern).max(100).default([]),
  ExposeHeader: z
    .array(z.string().regex(/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/))
    .max(100)
    .default([]),
  /** Seconds that a browser may keep a preflight's answer. */
  MaxAgeSeconds: z.coerce.number().int().min(0).max(86_400).optional(),
});
type Rule = z.output<typeof Rule>;
const Rules = z.array(Rule).min(1).max(100);
const Configuration = z.object({ CORSConfiguration: z.object({ CORSRule: Rules }) });

const matches = (pattern: string, text: string): boolean => {
  const star = pattern.indexOf("*");
  if (star < 0) return pattern === text;
  const [head, tail] = [pattern.slice(0, star), pattern.slice(star + 1)];
  return text.length >= head.length + tail.length && text.startsWith(head) && text.endsWith(tail);
};

/** @returns none for a document that is no list of rules */
export function parseCors(document: unknown): Rule[] {
  const parsed = Rules.safeParse(document);
  return parsed.success ? parsed.data : [];
}

const rulesOf = (bucket: Bucket) => parseCors(bucket.documents.cors);

const findRule = (bucket: Bucket, origin: string, method: string, headers: readonly string[]) =>
  rulesOf(bucket).find(
    (rule) =>
      rule.AllowedOrigin.some((pattern) => matches(pattern, origin)) &&
      rule.AllowedMethod.some((allowed) => allowed === method) &&
      headers.every((name) =>
        rule.AllowedHeader.some((pattern) => matches(pattern.toLowerCase(), name.toLowerCase())),
      ),
  );

function tellOrigin(response: ServerResponse, rule: Rule, origin: string): void {
  const isForAll = rule.AllowedOrigin.includes("*");
  response.setHeader("access-control-allow-origin", isForAll ? "*" : origin);
  if (!isForAll) response.setHeader("access-control-allow-credentials", "true");
  response.setHeader("access-control-allow-methods", rule.AllowedMethod.join(", "));
  if (rule.ExposeHeader.length > 0)
    response.setHeader("access-control-expose-headers", rule.ExposeHeader.join(", "));
}

/** Lets the page that asks read the answer, if the bucket's rules say so. */
export function allowOrigin(request: IncomingMessage, response: ServerResponse, bucket: Bucket): void {
  const { origin } = request.headers;
  if (origin === undefined || rulesOf(bucket).length === 0) return;
  response.appendHeader("vary", "Origin");
  const rule = findRule(bucket, origin, request.method ?? "", []);
  if (rule) tellOrigin(response, rule, origin);
}

/** @throws S3Error AccessDenied, in the same words for a bucket without rules and for one that is not there */
export async function answerPreflight(
  gateway: Gateway,
  request: IncomingMessage,
  response: ServerResponse,
  bucketName: string,
): Promise<void> {
  const { origin } = request.headers;
  const method = headerOf(request, "access-control-request-method");
  if (origin === undefined || method === undefined)
    throw new S3Error("BadRequest", "A preflight needs Origin and Access-Control-Request-Method.");
  const asked = (headerOf(request, "access-control-request-headers") ?? "")
    .split(",")
    .map((name) => name.trim())
    .filter((name) => name !== "");
  const bucket = await findBucketByName(gateway.pool, bucketName);
  const rule = bucket && findRule(bucket, origin, method, asked);
  if (!rule) throw new S3Error("AccessDenied", "No CORS rule of this bucket allows this.");
  tellOrigin(response, rule, origin);
  if (asked.length > 0) response.setHeader("access-control-allow-headers", asked.join(", "));
  if (rule.MaxAgeSeconds !== undefined)
    response.setHeader("access-control-max-age", String(rule.MaxAgeSeconds));
  response.setHeader("vary", "Origin, Access-Control-Request-Headers, Access-Control-Request-Method");
  send({ response }, 200, {});
}

export function sendCors(call: Call): void {
  allowQuery(call, "cors");
  const rules = rulesOf(call.bucket);
  if (rules.length === 0) throw new S3Error("NoSuchCORSConfiguration");
  sendXml(call, renderXml("CORSConfiguration", { CORSRule: rules.map((rule) => ({ ...rule })) }));
}

export async function putCors(call: Call): Promise<void> {
  allowQuery(call, "cors");
  const parsed = Configuration.safeParse(parseXml(await readSmallBody(call.readBody(), 64 << 10)));
  if (!parsed.success) throw new S3Error("MalformedXML", undefined, { cause: parsed.error });
  const rules = parsed.data.CORSConfiguration.CORSRule;
  await setDocument(call.gateway.pool, call.bucket.id, "cors", rules);
  send(call, 200, {});
}

export async function dropCors(call: Call): Promise<void> {
  allowQuery(call, "cors");
  await setDocument(call.gateway.pool, call.bucket.id, "cors", null);
  send(call, 204, {});
}
