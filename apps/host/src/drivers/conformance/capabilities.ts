import type { Capability } from "./capability.ts";
import { life } from "./life.ts";
import { limits } from "./limits.ts";
import { network } from "./network.ts";
import { running } from "./running.ts";

/** What every driver must do, or declare that it does not; in the order of the matrix. */
export const capabilities: readonly Capability[] = [...running, ...network, ...limits, ...life];
