import { z } from "zod";

const EdgeId = z.string().min(1).max(128);

/** More names than this are one fence around everything. */
export const maxFencedHostnames = 20_000;

/**
 * What an edge that does not answer must no longer serve, until it has applied `version`. A host keeps it
 * for the edge to find: the edge asks its hosts when the control plane does not answer it.
 */
export const FenceRequest = z.object({
  edge: EdgeId,
  version: z.int().min(0),
  /** Names of the route table; `*`: all of them. */
  hostnames: z.array(z.string().min(1).max(300)).max(maxFencedHostnames),
});
export type FenceRequest = z.output<typeof FenceRequest>;

/** How long the edge has not asked this host for its standing, milliseconds; at most as long as the host runs. */
export const FenceReport = z.object({ quietMs: z.number().min(0) });
export type FenceReport = z.output<typeof FenceReport>;

export const StandingQuery = z.object({ edge: EdgeId, applied: z.coerce.number().int().min(0) });

/** The fences around one edge, taken together; version 0: there are none. */
export const Standing = z.object({ version: z.int().min(0), hostnames: z.array(z.string()) });
export type Standing = z.output<typeof Standing>;
