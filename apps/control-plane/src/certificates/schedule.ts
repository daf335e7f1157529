import { createHash } from "node:crypto";
import { renewAfter, renewJitter } from "./settings.ts";

const minuteMs = 60_000;
/** Waits after failures: four tries in the first hour, then fewer. */
const afterRefusal = [2, 10, 30, 60, 180, 360, 720, 1_440].map((minutes) => minutes * minuteMs);
/** While the authority itself is away or failing nothing is counted against us. */
const afterOutage = [0.25, 0.5, 1, 2, 5, 10, 30].map((minutes) => minutes * minuteMs);

/**
 * @param failures in a row, from 1
 * @returns milliseconds until the next try; up to a tenth longer by chance
 */
export function retryAfterMs(
  failures: number,
  cause: "refusal" | "outage" = "refusal",
  random = Math.random(),
): number {
  const waits = cause === "refusal" ? afterRefusal : afterOutage;
  return Math.round(waits[Math.min(Math.max(failures, 1), waits.length) - 1]! * (1 + random / 10));
}

/** The same for one certificate at every look, so that two control planes agree. */
export function renewalTime(id: string, notBefore: Date, notAfter: Date): Date {
  const lifeMs = notAfter.getTime() - notBefore.getTime();
  const chance =
    createHash("sha256").update(`${id} ${notAfter.getTime()}`).digest().readUInt32BE(0) / 2 ** 32;
  return new Date(notBefore.getTime() + lifeMs * (renewAfter - renewJitter * chance));
}

export interface Scheduled {
  readonly id: string;
  readonly notBefore: Date | null;
  readonly notAfter: Date | null;
  readonly nextTryAt: Date;
  /** Some route or tenant still has the name. */
  readonly isWanted: boolean;
}

export type Action =
  | { readonly type: "wait"; readonly untilMs: number }
  | { readonly type: "order"; readonly isRenewal: boolean }
  /** Nobody has the name any more: it ends by itself. */
  | { readonly type: "retire" };

/** What to do about one certificate now. */
export function decide(row: Scheduled, now: Date): Action {
  const isValid = row.notAfter !== null && row.notAfter > now;
  if (!row.isWanted) {
    return isValid ? { type: "wait", untilMs: row.notAfter!.getTime() } : { type: "retire" };
  }
  const dueAt = isValid ? renewalTime(row.id, row.notBefore!, row.notAfter!) : now;
  const at = Math.max(dueAt.getTime(), row.nextTryAt.getTime());
  if (at > now.getTime()) return { type: "wait", untilMs: at };
  return { type: "order", isRenewal: row.notAfter !== null };
}
