import { z } from "zod";
import { S3Error } from "./s3-error.ts";

const Policy = z.object({
  expiration: z.iso.datetime({ offset: true }),
  conditions: z
    .array(
      z.union([
        z.tuple([
          z.literal("content-length-range"),
          z.coerce.number().int().min(0),
          z.coerce.number().int().min(0),
        ]),
        z.tuple([z.enum(["eq", "starts-with"]), z.string().regex(/^\$/), z.string()]),
        z.record(z.string(), z.string()).refine((one) => Object.keys(one).length === 1),
      ]),
    )
    .max(200),
});

export interface PostPolicy {
  /** Milliseconds since the epoch. */
  expiresAt: number;
  /** Bounds of the file, bytes. */
  sizeRange: [number, number] | null;
  fields: { name: string; value: string; isPrefix: boolean }[];
}

/** @param base64 as it was signed */
export function parsePolicy(base64: string): PostPolicy {
  let document: unknown;
  try {
    document = JSON.parse(Buffer.from(base64, "base64").toString("utf8"));
  } catch (error) {
    throw new S3Error("InvalidPolicyDocument", "The policy is not JSON in Base64.", { cause: error });
  }
  const parsed = Policy.safeParse(document);
  if (!parsed.success) throw new S3Error("InvalidPolicyDocument", undefined, { cause: parsed.error });
  const policy: PostPolicy = { expiresAt: Date.parse(parsed.data.expiration), sizeRange: null, fields: [] };
  for (const condition of parsed.data.conditions) {
    if (!Array.isArray(condition)) {
      for (const [name, value] of Object.entries(condition))
        policy.fields.push({ name: name.toLowerCase(), value, isPrefix: false });
    } else if (condition[0] === "content-length-range") policy.sizeRange = [condition[1], condition[2]];
    else {
      const [kind, name, value] = condition;
      policy.fields.push({ name: name.slice(1).toLowerCase(), value, isPrefix: kind === "starts-with" });
    }
  }
  return policy;
}

/** Fields that need no condition. */
const free = (name: string) =>
  ["policy", "x-amz-signature", "file"].includes(name) || name.startsWith("x-ignore-");

/**
 * Every field must be one that the policy names, and every condition must hold.
 * @param fields names in lower case, with `bucket` and the final `key`
 */
export function checkPolicy(policy: PostPolicy, fields: ReadonlyMap<string, string>, now: number): void {
  if (now > policy.expiresAt) throw new S3Error("AccessDenied", "The policy has expired.");
  for (const { name, value, isPrefix } of policy.fields) {
    const sent = fields.get(name) ?? "";
    // A list of types may be given where one must begin in some way.
    const holds = isPrefix
      ? (name === "content-type" ? sent.split(",") : [sent]).every((one) => one.startsWith(value))
      : sent === value;
    if (!holds) throw new S3Error("AccessDenied", `The policy does not allow this value of ${name}.`);
  }
  const named = new Set(policy.fields.map(({ name }) => name));
  for (const name of fields.keys())
    if (!free(name) && name !== "bucket" && !named.has(name))
      throw new S3Error("AccessDenied", `The policy does not name the field ${name}.`);
}
