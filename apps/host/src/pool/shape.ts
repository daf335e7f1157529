import type { BoxLimits, ResolvedBoxSpec } from "@platform/host-api";

/** What cannot change once a box runs: boxes that wait are interchangeable within one shape. */
export interface PoolShape {
  readonly driver: string;
  readonly template: string;
  readonly limits: BoxLimits;
}

export const nameOf = ({ driver, template, limits }: PoolShape): string =>
  [driver, template, limits.memoryBytes, limits.cpuMillis, limits.maxProcesses, limits.diskBytes].join("/");

/**
 * The shape of box that would serve this spec, or `null` when only a box of its own can: content has to
 * be in place before the first process runs, and builds and app instances are no part of the pool.
 */
export function shapeFor(driver: string, spec: ResolvedBoxSpec): PoolShape | null {
  if (spec.purpose !== "sandbox" || spec.content.type !== "empty") return null;
  return { driver, template: spec.template, limits: spec.limits };
}
