import { z } from "zod";
import { BoxLimits } from "./box.ts";
import { DatabaseSpec } from "./database.ts";

const counts = {
  ready: z.int(),
  target: z.int(),
  /** Creates since the host started that got what waited. */
  claims: z.int(),
  /** Creates that found none. */
  misses: z.int(),
  claimsPerMinute: z.int(),
};

/** Boxes that were booted, and database servers that were made, before anybody asked for them. */
export const PoolReport = z.object({
  /** Boxes that wait at most, all together; 0: there is no pool. */
  max: z.int(),
  /** `memory` or `cpu`: the machine is too busy to add boxes now. */
  held: z.string().nullable(),
  lanes: z.array(
    z.object({
      driver: z.string(),
      template: z.string(),
      limits: BoxLimits,
      ...counts,
    }),
  ),
  databases: z.array(DatabaseSpec.extend(counts)),
});
export type PoolReport = z.output<typeof PoolReport>;
