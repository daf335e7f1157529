import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";

const Manifest = z.object({ kernel: z.string(), digest: z.string() });

/** Kernel and initial root that every microVM boots; made by apps/guest/build-microvm.ts. */
export interface MicrovmKit {
  readonly folder: string;
  readonly kernelVersion: string;
  readonly digest: string;
}

export const buildLine =
  "Make it with: node apps/guest/build-microvm.ts FOLDER, and set MICROVM_DIR to that folder.";

/** @throws Error that says what to do */
export async function readKit(folder: string | null): Promise<MicrovmKit> {
  if (folder === null) throw new Error(`No kernel for virtual machines is configured. ${buildLine}`);
  try {
    const text = await readFile(join(folder, "microvm.json"), "utf8");
    const { kernel, digest } = Manifest.parse(JSON.parse(text));
    return { folder, kernelVersion: kernel, digest };
  } catch (cause) {
    throw new Error(`${folder} holds no kernel for virtual machines. ${buildLine}`, { cause });
  }
}
