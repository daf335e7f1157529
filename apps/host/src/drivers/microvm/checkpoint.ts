import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import type { MachineShape } from "./vmm.ts";

export const Shape = z.object({
  memoryBytes: z.int(),
  cores: z.int(),
  diskBytes: z.int(),
  rootDisk: z.string(),
  toolsDisk: z.string(),
});

/** What a saved machine needs to go on; beside the monitor's own files and the disk. */
const Checkpoint = z.object({
  vmm: z.string(),
  version: z.string(),
  kit: z.string(),
  shape: Shape,
  /** As the guest told it. */
  kernel: z.string().default("Linux"),
  /** How the monitor's own files are laid out. */
  format: z.int().default(1),
});
export type Checkpoint = z.output<typeof Checkpoint>;

const checkpointFile = "machine.json";
export const diskFile = "disk.img";
/** Memory in a file of its own since the second. */
export const currentFormat = 2;

export const readCheckpoint = async (from: string): Promise<Checkpoint> =>
  Checkpoint.parse(JSON.parse(await readFile(join(from, checkpointFile), "utf8")));

/** Written last: a folder without it is no checkpoint. */
export const writeCheckpoint = (into: string, made: Checkpoint): Promise<void> =>
  writeFile(join(into, checkpointFile), JSON.stringify(made));

const makerOf = ({ vmm, version, kit, format }: Omit<Checkpoint, "shape" | "kernel">): string =>
  `${vmm} ${version} with guest kernel ${kit.slice(0, 12)}, layout ${format}`;

/** `null` when a machine of this shape can go on from what was saved, else why it cannot. */
export function whyNotFrom(
  saved: Checkpoint,
  here: Omit<Checkpoint, "shape" | "kernel">,
  shape: MachineShape,
): string | null {
  const [made, wanted] = [makerOf(saved), makerOf(here)];
  if (made !== wanted) return `Its memory was saved by ${made} and cannot go on under ${wanted}.`;
  const different = Object.entries(shape).filter(
    ([name, value]) => value !== saved.shape[name as keyof MachineShape],
  );
  if (different.length === 0) return null;
  return `Its memory belongs to a machine with another ${different.map(([name]) => name).join(", ")}.`;
}
