import { PlatformError } from "@platform/contract";
import { Cron } from "croner";

const invalid = (field: "schedule" | "timezone", message: string, cause?: unknown) =>
  new PlatformError("VALIDATION_FAILED", `${field}: ${message}.`, { errors: { [field]: [message] }, cause });

function assertTimezone(timezone: string): void {
  try {
    new Intl.DateTimeFormat("en", { timeZone: timezone });
  } catch (error) {
    throw invalid("timezone", `"${timezone}" is no IANA time zone such as Europe/Berlin`, error);
  }
}

/**
 * The first occurrence after a point in time. An hour that the clocks skip happens at the shift; one that
 * they repeat happens once.
 *
 * @throws PlatformError VALIDATION_FAILED when the schedule or zone is not valid, or never occurs
 */
export function nextRun(schedule: string, timezone: string, after: Date): Date {
  assertTimezone(timezone);
  const next = readSchedule(schedule, timezone)(after);
  if (!next) throw invalid("schedule", `"${schedule}" never occurs`);
  return next;
}

/** @returns finds the first occurrence after a time; `null` when there is none */
export function readSchedule(schedule: string, timezone: string): (after: Date) => Date | null {
  try {
    const cron = new Cron(schedule, { mode: "5-part", timezone, paused: true });
    return (after) => cron.nextRun(after);
  } catch (error) {
    const reason = (error as Error).message.replace(/^Cron\w+: /, "").replace(/\.$/, "");
    throw invalid(
      "schedule",
      `"${schedule}" is not five fields or a name such as @hourly (${reason})`,
      error,
    );
  }
}
