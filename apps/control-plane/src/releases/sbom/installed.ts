import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { GuestClient } from "@platform/guest-protocol";
import { z } from "zod";

const short = z.string().min(1).max(300);
const needs = z.array(z.string().max(300)).max(2000);
const Line = z.discriminatedUnion("type", [
  z.object({ type: z.literal("app"), name: short, version: short.nullable(), needs }),
  z.object({
    ...{ type: z.literal("npm"), path: z.string().max(4096), name: short, version: short, needs },
    ...{ license: z.string().max(300).nullable(), integrity: z.string().max(1000).nullable() },
  }),
  z.object({
    ...{ type: z.literal("pypi"), path: z.string().max(4096), name: short, version: short, needs },
    ...{ license: z.string().max(300).nullable(), recordSha256: z.string().max(64).nullable() },
  }),
]);
type Line = z.output<typeof Line>;

export type InstalledPackage = Extract<Line, { type: "npm" | "pypi" }>;

export interface Installed {
  readonly app: Extract<Line, { type: "app" }>;
  readonly packages: readonly InstalledPackage[];
}

const script = readFileSync(join(import.meta.dirname, "list-packages.mjs"), "utf8");
const systemPath = "/usr/local/bin:/usr/bin:/bin";

/** @returns null if the list did not come to its end: half a list would say that the rest is not there */
export function parseInstalled(text: string): Installed | null {
  const lines = text.split("\n").filter((line) => line !== "");
  if (lines.pop() !== '{"type":"end"}') return null;
  let app: Installed["app"] = { type: "app", name: "app", version: null, needs: [] };
  const packages: InstalledPackage[] = [];
  for (const line of lines) {
    const parsed = Line.safeParse(JSON.parse(line));
    if (!parsed.success) continue; // A package whose own description is out of all bounds.
    if (parsed.data.type === "app") app = parsed.data;
    else packages.push(parsed.data);
  }
  return { app, packages };
}

/** What is installed in a build's box, as the files there say. */
export async function listInstalled(guest: GuestClient, root: string): Promise<Installed | null> {
  const seen = await guest.exec("exec node --input-type=module -", {
    cwd: root,
    env: { PATH: systemPath, NODE_OPTIONS: "" },
    stdin: script,
    timeoutMs: 120_000,
    maxOutputBytes: 32 * 1024 * 1024,
  });
  return seen.exitCode === 0 ? parseInstalled(seen.stdout) : null;
}
