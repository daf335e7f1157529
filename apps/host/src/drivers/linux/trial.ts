import { chmod, mkdir, mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import { BoxSpec, type ResolvedBoxSpec } from "@platform/host-api";
import type { z } from "zod";
import { foldersAt, furnish } from "../box-folders.ts";
import type { BoxFolders } from "../driver.ts";

const mib = 1024 * 1024;
const trialSpec = {
  purpose: "sandbox",
  minimumIsolation: "namespaces",
  content: { type: "empty" },
  limits: { memoryBytes: 256 * mib, cpuMillis: 1000, maxProcesses: 64, diskBytes: mib },
  egress: { mode: "deny-all" },
} satisfies z.input<typeof BoxSpec>;

export interface Trial {
  readonly key: string;
  readonly spec: ResolvedBoxSpec;
  readonly folders: BoxFolders;
}

/**
 * Lends `attempt` the folders and limits that a real box has, and removes them afterwards.
 *
 * @param scratch folder on the file system of the boxes
 * @param owner whom the trial runs as; `null` when not root
 */
export async function withTrial<T>(
  scratch: string,
  owner: BoxFolders["owner"],
  attempt: (trial: Trial) => Promise<T>,
): Promise<T> {
  const root = await mkdtemp(join(scratch, "probe-"));
  const folders = foldersAt(root, owner, "folders");
  try {
    await chmod(root, 0o711);
    await mkdir(folders.log, { mode: 0o711 });
    await furnish(folders);
    const key = root.slice(root.lastIndexOf("/") + 1);
    return await attempt({ key, spec: BoxSpec.parse(trialSpec), folders });
  } finally {
    await rm(root, { recursive: true, force: true });
  }
}
