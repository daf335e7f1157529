import { z } from "zod";
import { BoxKey } from "./box.ts";

export const DoorRequest = z.object({ boxKey: BoxKey, port: z.int().min(1).max(65_535) });

export const Door = z.object({ path: z.string() });
export type Door = z.output<typeof Door>;
