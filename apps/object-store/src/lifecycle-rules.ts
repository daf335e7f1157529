import { z } from "zod";
import { readSmallBody } from "./body.ts";
import { setDocument } from "./bucket-index.ts";
import { allowQuery, type Call, send, sendXml } from "./call.ts";
import { S3Error } from "./s3-error.ts";
import { parseXml, renderXml } from "./xml.ts";

const days = z.coerce.number().int().min(1).max(36_500);
const bytes = z.coerce.number().int().min(0);
const Tag = z.object({ Key: z.string(), Value: z.string() });
/** An empty element is an empty text. */
const orEmpty = <T extends z.ZodType>(schema: T) =>
  z.union([z.literal("").transform(() => ({}) as z.output<T>), schema]);

const Conditions = z.object({
  Prefix: z.string().optional(),
  Tag: z.array(Tag).optional(),
  ObjectSizeGreaterThan: bytes.optional(),
  ObjectSizeLessThan: bytes.optional(),
});

const Rule = z
  .strictObject({
    ID: z.string().max(255).optional(),
    Status: z.enum(["Enabled", "Disabled"]),
    /** Where it stood in the protocol's first form. */
    Prefix: z.string().optional(),
    Filter: orEmpty(Conditions.extend({ And: Conditions.optional() })).optional(),
    Expiration: z
      .strictObject({
        Days: days.optional(),
        Date: z.iso.datetime({ offset: true }).or(z.iso.date()).optional(),
        ExpiredObjectDeleteMarker: z.stringbool().optional(),
      })
      .optional(),
    NoncurrentVersionExpiration: z
      .strictObject({ NoncurrentDays: days, NewerNoncurrentVersions: days.optional() })
      .optional(),
    AbortIncompleteMultipartUpload: z.strictObject({ DaysAfterInitiation: days }).optional(),
  })
  .refine(
    ({ Expiration, NoncurrentVersionExpiration, AbortIncompleteMultipartUpload }) =>
      Expiration ?? NoncurrentVersionExpiration ?? AbortIncompleteMultipartUpload,
  );

const Rules = z.array(Rule).min(1).max(100);
const Configuration = z.object({ LifecycleConfiguration: z.object({ Rule: Rules }) });
export type LifecycleRule = z.output<typeof Rule>;

/** What of a rule's filter is compared with each object. */
export interface Filter {
  prefix: string;
  tags: Record<string, string>;
  minBytes: number;
  maxBytes: number;
}

export function filterOf(rule: LifecycleRule): Filter {
  const all = [rule.Filter ?? {}, rule.Filter?.And ?? {}];
  const first = <T>(pick: (conditions: z.output<typeof Conditions>) => T | undefined) =>
    all.map(pick).find((value) => value !== undefined);
  return {
    prefix: first(({ Prefix }) => Prefix) ?? rule.Prefix ?? "",
    tags: Object.fromEntries(all.flatMap(({ Tag = [] }) => Tag.map(({ Key, Value }) => [Key, Value]))),
    minBytes: (first(({ ObjectSizeGreaterThan }) => ObjectSizeGreaterThan) ?? -1) + 1,
    maxBytes: (first(({ ObjectSizeLessThan }) => ObjectSizeLessThan) ?? Number.MAX_SAFE_INTEGER) - 1,
  };
}

/** @returns none for a document that is no list of rules */
export function parseRules(document: unknown): LifecycleRule[] {
  const parsed = Rules.safeParse(document);
  return parsed.success ? parsed.data : [];
}

export function sendLifecycle(call: Call): void {
  allowQuery(call, "lifecycle");
  const rules = parseRules(call.bucket.documents.lifecycle);
  if (rules.length === 0) throw new S3Error("NoSuchLifecycleConfiguration");
  sendXml(call, renderXml("LifecycleConfiguration", { Rule: rules as never }));
}

export async function putLifecycle(call: Call): Promise<void> {
  allowQuery(call, "lifecycle");
  const text = await readSmallBody(call.readBody(), 256 << 10);
  const document = parseXml(text);
  if (/<(\w+:)?(Transition|NoncurrentVersionTransition)>/.test(text))
    throw new S3Error("NotImplemented", "There is one storage class, so rules with transitions are refused.");
  const parsed = Configuration.safeParse(document);
  if (!parsed.success) throw new S3Error("MalformedXML", undefined, { cause: parsed.error });
  const rules = parsed.data.LifecycleConfiguration.Rule.map((rule, at) => ({
    ...rule,
    ID: rule.ID ?? `rule-${at + 1}`,
  }));
  await setDocument(call.gateway.pool, call.bucket.id, "lifecycle", rules);
  send(call, 200, {});
}

export async function dropLifecycle(call: Call): Promise<void> {
  allowQuery(call, "lifecycle");
  await setDocument(call.gateway.pool, call.bucket.id, "lifecycle", null);
  send(call, 204, {});
}
