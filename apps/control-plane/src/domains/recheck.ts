import { query } from "@platform/postgres";
import type { Platform } from "../platform.ts";
import { watchDays } from "./schedule.ts";
import type { DomainRow } from "./store.ts";
import { checkDomain } from "./verify.ts";

const mostAtOnce = 20;

/**
 * Chore: looks at DNS again where it is time to, so that a record which appeared activates its domain, and
 * one that left is told. A control plane takes the rows that no other one has.
 */
export async function recheckDomains(platform: Platform): Promise<void> {
  const due = await query<DomainRow>(
    platform.pool,
    `update domains set next_check_at = now() + interval '10 minutes' where id in
       (select id from domains where state <> 'removed' and next_check_at <= now()
          and (verified_at is not null or created_at > now() - interval '${watchDays} days')
        order by next_check_at limit ${mostAtOnce} for update skip locked) returning *`,
  );
  for (const row of due)
    await checkDomain(platform, row).catch((error: unknown) =>
      platform.log.warn({ err: error, hostname: row.hostname }, "a domain could not be checked"),
    );
}
