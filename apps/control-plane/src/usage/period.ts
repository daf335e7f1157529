import { PlatformError } from "@platform/contract";

export interface Period {
  readonly start: Date;
  readonly end: Date;
}

const dayMs = 86_400_000;
const mostDays = 400;

const startOfMonth = (now: Date) => new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth(), 1));

function bounded(start: Date, end: Date): Period {
  if (start >= end)
    throw new PlatformError(
      "INVALID_FILTER",
      "The period ends before it begins. Give a start that is before the end.",
    );
  if (end.getTime() - start.getTime() > mostDays * dayMs)
    throw new PlatformError("INVALID_FILTER", `The period is over ${mostDays} days. Ask for a shorter one.`);
  return { start, end };
}

/** @param period `30d` or `month-to-date`, counted back from now; `start` and `end` win over it */
export function periodOf(
  filter: { period?: string | undefined; start?: string | undefined; end?: string | undefined },
  now = new Date(),
): Period {
  const end = filter.end ? new Date(filter.end) : now;
  if (filter.start) return bounded(new Date(filter.start), end);
  if (filter.period === undefined || filter.period === "month-to-date")
    return bounded(startOfMonth(end), end);
  return bounded(new Date(end.getTime() - Number.parseInt(filter.period, 10) * dayMs), end);
}

export const periodView = ({ start, end }: Period) => ({
  period_start: start.toISOString(),
  period_end: end.toISOString(),
});
