import type { BoxLimits, ResolvedBoxSpec } from "@platform/host-api";
import type { SandboxDriver } from "../drivers/driver.ts";

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
export function shapeFor(driver: WaitingDriver, spec: ResolvedBoxSpec): PoolShape | null {
  if (spec.purpose !== "sandbox" || spec.content.type !== "empty") return null;
  if (!canWait(driver, spec.template)) return null;
  return { driver: driver.name, template: spec.template, limits: spec.limits };
}

type WaitingDriver = Pick<SandboxDriver, "name" | "disk" | "standby">;

/** A virtual machine cannot share the machine's own system, so no box of that template waits. */
export const canWait = ({ standby, disk }: WaitingDriver, template: string): boolean =>
  standby !== undefined && (disk !== "attached" || template !== "host");
