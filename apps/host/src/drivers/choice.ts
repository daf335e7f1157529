import { HostError, isolationClasses, type DriverReport, type IsolationClass } from "@platform/host-api";
import type { SandboxDriver } from "./driver.ts";

export interface ProbedDriver {
  readonly driver: SandboxDriver;
  readonly report: DriverReport;
}

const rank = (level: IsolationClass) => isolationClasses.indexOf(level);

/** The strongest usable driver; `null` when no box can be made here. */
export function strongest(probed: readonly ProbedDriver[]): ProbedDriver | null {
  const usable = probed.filter(({ report }) => report.usable);
  return usable.toSorted((a, b) => rank(b.report.level) - rank(a.report.level))[0] ?? null;
}

/** @throws HostError `ISOLATION_UNAVAILABLE` naming what to do; a weaker class is never used instead */
export function chooseDriver(probed: readonly ProbedDriver[], minimum: IsolationClass): SandboxDriver {
  const best = strongest(probed);
  if (best && rank(best.report.level) >= rank(minimum)) return best.driver;
  const drivers = probed.map(({ report }) => report);
  const reasons = drivers.flatMap(({ why }) => (why === null ? [] : [why])).join(" ");
  const message = best
    ? `This host isolates boxes by "${best.report.level}" at most; "${minimum}" was asked for. Use another host or ask for less.`
    : `No isolation is usable on this host. ${reasons}`;
  throw new HostError("ISOLATION_UNAVAILABLE", 503, message, { drivers });
}
