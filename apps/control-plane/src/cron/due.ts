import type { CronJobRow } from "./store.ts";
import { readSchedule } from "./schedule.ts";

/** An occurrence that is older than this was missed while no control plane ran, milliseconds. */
export const graceMs = 60_000;
/** Missed occurrences that get a record of their own. */
const mostRecords = 20;
/** More than a job can make up for and be told of. */
const mostDue = 200;
const hourMs = 3_600_000;
/** How far back is looked, until enough was found: a schedule says how dense it is only when it is read. */
const looksMs = [2 * hourMs, 12 * hourMs, 96 * hourMs, 60 * 24 * hourMs, Number.POSITIVE_INFINITY];

export interface Due {
  /** To be run, oldest first. */
  run: Date[];
  /** To be recorded as missed, oldest first: the newest ones. */
  missed: Date[];
  /** Whether there were more before those. */
  hasUnrecorded: boolean;
  /** `null`: the schedule has no further occurrence. */
  next: Date | null;
}

interface Occurrences {
  /** The newest ones up to now, oldest first. */
  due: Date[];
  hasMore: boolean;
  next: Date | null;
}

function occurrences(job: CronJobRow, now: Date): Occurrences {
  let nextAfter: (after: Date) => Date | null;
  try {
    nextAfter = readSchedule(job.schedule, job.timezone);
  } catch {
    // It was valid once: the zone left the tables. What was due is still due.
    nextAfter = () => null;
  }
  const first = job.next_run_at!;
  for (const lookMs of looksMs) {
    const isWhole = now.getTime() - lookMs <= first.getTime();
    const due: Date[] = [];
    let at = isWhole ? first : nextAfter(new Date(now.getTime() - lookMs));
    let steps = 0;
    for (; at !== null && at <= now && steps < 5_000; steps++) {
      due.push(at);
      at = nextAfter(at);
    }
    if (!isWhole && due.length < mostDue) continue;
    const hasMore = !isWhole || due.length > mostDue;
    const next = at !== null && at <= now ? nextAfter(now) : at;
    return { due: due.slice(-mostDue), hasMore, next };
  }
  throw new Error("the last look is without an end");
}

/** What is to be done about the occurrences of a job up to now. Pure. */
export function decideDue(job: CronJobRow, now: Date): Due {
  const { due, next, hasMore } = occurrences(job, now);
  const isLate = (tick: Date) => now.getTime() - tick.getTime() > graceMs;
  const late = due.filter(isLate);
  const onTime = due.filter((tick) => !isLate(tick));
  // One that is run on time stands for those before it.
  const wanted = { skip: 0, once: onTime.length > 0 ? 0 : 1, all: job.missed_limit }[job.missed_policy];
  const caughtUp = wanted === 0 ? [] : late.slice(-wanted);
  const missed = late.slice(0, late.length - caughtUp.length);
  const recorded = missed.slice(-mostRecords);
  return {
    run: [...caughtUp, ...onTime],
    missed: recorded,
    hasUnrecorded: hasMore || recorded.length < missed.length,
    next,
  };
}
