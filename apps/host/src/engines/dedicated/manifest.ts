import { z } from "zod";

/** What a restore must know beside the files. It holds a password and so is only ever stored encrypted. */
export const Manifest = z.object({
  format: z.literal(1),
  engine: z.enum(["postgresql", "mysql", "redis"]),
  version: z.string(),
  major: z.string(),
  database: z.string(),
  owner: z.string(),
  superuserPassword: z.string(),
  /** Accounts that logged in then; a copy lets none of them in. */
  accounts: z.array(z.string()),
  takenAt: z.string(),
});
export type Manifest = z.output<typeof Manifest>;
