import { queryOne } from "@platform/postgres";
import { record } from "../events/index.ts";
import type { Platform } from "../platform.ts";
import { AcmeRefusal, failureOf, StillPending, ValidationFailed } from "./acme-errors.ts";
import { forgetAccount } from "./acme-client.ts";
import { isWanted, registeredDomain } from "./names.ts";
import { placeOrder } from "./order.ts";
import { decide, retryAfterMs } from "./schedule.ts";
import { limits, type AcmeSettings, type ChallengeType } from "./settings.ts";
import { certificateById, removeCertificate, storeFailure, type CertificateRow } from "./store.ts";

const longestLookMs = 6 * 3_600_000;
/** A pending order is looked at again this soon, milliseconds. */
const pendingMs = 5_000;

/** Our own share of the authority's limits is used up: nothing was asked. */
class OwnLimit extends Error {
  readonly until: Date;

  constructor(until: Date) {
    super(`no order before ${until.toISOString()}`);
    this.name = "OwnLimit";
    this.until = until;
  }
}

/** When the oldest of the last `most` in the window falls out of it; null while there is room. */
async function fullUntil(
  platform: Platform,
  condition: string,
  value: string,
  window: string,
  most: number,
): Promise<Date | null> {
  const row = await queryOne<{ until: Date }>(
    platform.pool,
    `select placed_at + interval '${window}' as until from acme_orders
     where ${condition} and placed_at > now() - interval '${window}' order by placed_at desc offset $2 limit 1`,
    [value, most - 1],
  );
  return row?.until ?? null;
}

/** @throws OwnLimit */
async function assertRoom(platform: Platform, settings: AcmeSettings, row: CertificateRow): Promise<void> {
  const checks = [
    fullUntil(
      platform,
      "name = $1 and failed_validation",
      row.name,
      "1 hour",
      limits.failedValidationsAnHour,
    ),
    fullUntil(platform, "directory = $1", settings.directoryUrl, "3 hours", limits.ordersInThreeHours),
    row.chain === null
      ? fullUntil(
          platform,
          "registered_domain = $1 and not is_renewal and outcome = 'issued'",
          registeredDomain(row.name),
          "7 days",
          limits.newForDomainAWeek,
        )
      : Promise.resolve(null),
  ];
  const full = (await Promise.all(checks)).filter((until) => until !== null);
  if (full.length > 0) throw new OwnLimit(new Date(Math.max(...full.map((until) => until.getTime()))));
}

/** After a failure the next kind is tried: what spoils one, such as a proxy in front, may let the other pass. */
export function challengeFor(
  row: Pick<CertificateRow, "name" | "failures">,
  order: readonly ChallengeType[],
) {
  if (row.name.startsWith("*.")) return "dns-01" as const;
  const kinds = order.filter((kind) => kind !== "dns-01");
  return kinds.length > 0 ? kinds[row.failures % kinds.length]! : "http-01";
}

async function note(platform: Platform, row: CertificateRow, type: string, data: Record<string, unknown>) {
  await record(platform, {
    tenantId: row.tenant_id,
    workspaceId: null,
    type,
    resourceType: "certificate",
    resourceId: row.id,
    data: { id: row.id, name: row.name, ...data },
  });
}

/** Stores why there is none, and when to try again. @returns milliseconds until then */
async function fail(
  platform: Platform,
  settings: AcmeSettings,
  row: CertificateRow,
  error: unknown,
): Promise<number> {
  const isPending = error instanceof StillPending;
  const asked = error instanceof AcmeRefusal ? error.retryAfterMs : null;
  const own = error instanceof OwnLimit ? error.until.getTime() - Date.now() : null;
  const isOutage =
    error instanceof AcmeRefusal ? error.status >= 500 : !(error instanceof ValidationFailed || isPending);
  const waitMs =
    own ?? asked ?? (isPending ? pendingMs : retryAfterMs(row.failures + 1, isOutage ? "outage" : "refusal"));
  if (error instanceof AcmeRefusal && error.kind === "accountDoesNotExist")
    await forgetAccount(platform, settings);
  const failure =
    error instanceof OwnLimit
      ? {
          reason: "rate_limited",
          message: "The share of the certificate authority's limits for this name is used up.",
          next_step: "Nothing: it is tried again by itself.",
        }
      : failureOf(error);
  const retryAt = new Date(Date.now() + waitMs);
  await storeFailure(platform, row.id, { ...failure, at: new Date().toISOString() }, retryAt, {
    keepsOrder: isPending || isOutage,
    counts: !isPending,
  });
  platform.log.warn(
    { name: row.name, reason: failure.reason, retryAt, serving: row.not_after, err: error },
    "no certificate could be had",
  );
  if (!isPending && row.failures === 0)
    await note(platform, row, "certificate.failed", { ...failure, next_try_at: retryAt.toISOString() });
  return waitMs;
}

/** Step of the reconciler over `certificates`: one order at a time for a name, across all control planes. */
export function createCertificateStep(platform: Platform, settings: AcmeSettings) {
  return async (id: string, signal: AbortSignal): Promise<number> => {
    const row = (await certificateById(platform.pool, id))!;
    const now = new Date();
    const action = decide(
      {
        id,
        notBefore: row.not_before,
        notAfter: row.not_after,
        nextTryAt: row.next_try_at,
        isWanted: await isWanted(platform.pool, row.name),
      },
      now,
    );
    if (action.type === "wait") return Math.min(longestLookMs, action.untilMs - now.getTime());
    if (action.type === "retire") {
      await removeCertificate(platform, id);
      return longestLookMs;
    }
    try {
      if (row.order_url === null) await assertRoom(platform, settings, row);
      const challenge = challengeFor(row, settings.challenges);
      await placeOrder({ platform, settings, row, challenge, signal });
    } catch (error) {
      // Stopped, or the lease went to another control plane: it goes on with this very order.
      if (signal.aborted) throw error;
      return fail(platform, settings, row, error);
    }
    await note(platform, row, action.isRenewal ? "certificate.renewed" : "certificate.issued", {});
    return 0;
  };
}
