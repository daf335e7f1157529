import { z } from "zod";

/** Query values arrive as text. */
export const queryInt = (min: number, max: number, standard: number) =>
  z.coerce.number().int().min(min).max(max).catch(standard).default(standard);

export const Name = z.string().trim().min(1).max(200);
export const Slug = z
  .string()
  .regex(
    /^[a-z0-9](?:[a-z0-9-]{0,46}[a-z0-9])?$/,
    "lower case letters, digits and inner hyphens, at most 48",
  );
/** First labels that the platform itself serves below a tenant's domain, or that the web's own customs give a meaning. */
const reservedLabels = new Set(
  (
    "sandbox api s3 www storage edge internal admin app auth login account dashboard console status docs help support " +
    "billing mail smtp imap pop mx ns ns1 ns2 ftp ssh git cdn static assets media files db database registry webhook webhooks " +
    "autoconfig autodiscover wpad isatap localhost preview previews deploy security abuse postmaster hostmaster root"
  ).split(" "),
);
const reserved = (label: string): string =>
  `"${label}" is a name of the platform's own below this domain; choose another one, such as "${label}-app"`;

/** A slug that becomes a host name: `{slug}.{tenant}`. */
export const HostSlug = Slug.refine((slug) => !reservedLabels.has(slug), {
  error: ({ input }) => reserved(String(input)),
});
/** `{slug}.sandbox.{tenant}`, beside `{port}-{slug}` for each port. */
export const SandboxSlug = HostSlug.refine(
  (slug) => !/^\d{1,5}-/.test(slug),
  "starts like the address of a port: choose a slug that does not begin with a number and a hyphen",
);
export const EnvName = z
  .string()
  .regex(/^[A-Za-z_][A-Za-z0-9_]*$/, "letters, digits and underscores, not starting with a digit")
  .max(256);
/** No program can be given a zero byte in its environment. */
const noZeroByte = (text: string) => !text.includes("\0");
export const EnvMap = z.record(
  EnvName,
  z.coerce
    .string()
    .max(128 * 1024)
    .refine(noZeroByte, "must not hold a zero byte"),
);
export const Port = z.coerce.number().int().min(1).max(65_535);
export const Metadata = z.record(z.string(), z.unknown());
export const Tags = z.union([z.array(z.string().max(200)).max(100), z.record(z.string(), z.string())]);

/** Attribution: stored, returned, filterable, immutable; never decides access. */
export const External = z.object({
  external_workspace_id: z.string().max(255).optional(),
  external_user_id: z.string().max(255).optional(),
  external_project_id: z.string().max(255).optional(),
});

export const Placement = z.object({
  workspace_id: z.string().optional(),
  workspace_slug: z.string().optional(),
  workspace_name: z.string().optional(),
  project_id: z.string().optional(),
  project_slug: z.string().optional(),
  project_name: z.string().optional(),
});

export const ListQuery = z.object({
  limit: queryInt(1, 200, 50),
  cursor: z.string().optional(),
  workspace_id: z.string().optional(),
  project_id: z.string().optional(),
  external_workspace_id: z.string().optional(),
  external_user_id: z.string().optional(),
  external_project_id: z.string().optional(),
  state: z.string().optional(),
});
export type ListQuery = z.output<typeof ListQuery>;

export const Empty = z.looseObject({});
/** Bodies of actions that take nothing: any object, or none. */
export const NoBody = z.unknown();
