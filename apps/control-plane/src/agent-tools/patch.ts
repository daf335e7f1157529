import { posix } from "node:path";
import { text } from "node:stream/consumers";
import { applyPatch, parsePatch, type StructuredPatch } from "diff";
import { PlatformError, agentToolRoutes as r } from "@platform/contract";
import { GuestError, type GuestClient } from "@platform/guest-protocol";
import { handler, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { guestProblem, liveSandbox, sandboxPath } from "../sandboxes/index.ts";

interface Change {
  readonly path: string;
  readonly from: string;
  readonly action: "created" | "modified" | "deleted" | "renamed";
  readonly hunks: number;
  readonly content: string | null;
}

interface Reject {
  readonly path: string;
  readonly reason: string;
  readonly hunk?: string;
}

const mostFiles = 1000;

/** Names as git and diff write them: `a/src/x.ts`, `src/x.ts<tab>date`; null for /dev/null. */
function nameIn(raw: string | undefined): string | null {
  const name = (raw ?? "")
    .split("\t")[0]!
    .trim()
    .replace(/^"(.*)"$/, "$1");
  if (name === "/dev/null" || name === "") return null;
  return name.replace(/^[ab]\//, "");
}

/** @throws PlatformError INVALID_PATH for a name that leads out of the folder */
function below(folder: string, name: string): string {
  const path = posix.resolve(folder, name);
  if (path === folder || !path.startsWith(folder === "/" ? "/" : `${folder}/`))
    throw new PlatformError(
      "INVALID_PATH",
      `The patch names ${name.slice(0, 200)}, which is outside of ${folder}.`,
    );
  return path;
}

async function readText(guest: GuestClient, path: string): Promise<string | null> {
  try {
    return await text(await guest.readFile(path));
  } catch (error) {
    if (error instanceof GuestError && error.status === 404) return null;
    throw guestProblem(error, path);
  }
}

async function changeOf(
  guest: GuestClient,
  folder: string,
  one: StructuredPatch,
  fuzz: number,
): Promise<Change | Reject> {
  const oldName = nameIn(one.oldFileName);
  const newName = nameIn(one.newFileName);
  const name = newName ?? oldName;
  if (name === null) return { path: "", reason: "names_no_file" };
  const path = below(folder, name);
  const from = oldName === null ? path : below(folder, oldName);
  const before = await readText(guest, from);
  if (oldName === null && before !== null && before !== "") return { path, reason: "exists_already" };
  if (oldName !== null && before === null) return { path: from, reason: "does_not_exist" };
  const content = applyPatch(before ?? "", one, { fuzzFactor: fuzz });
  if (content === false) return { path, reason: "does_not_fit", hunk: firstMisfit(before ?? "", one, fuzz) };
  const hunks = one.hunks.length;
  if (newName === null) return { path: from, from, action: "deleted", hunks, content: null };
  const action = oldName === null ? "created" : from === path ? "modified" : "renamed";
  return { path, from, action, hunks, content };
}

/** Head and lines of the first hunk that fits nowhere, alone or after those before it. */
function firstMisfit(before: string, one: StructuredPatch, fuzz: number): string {
  const at = one.hunks.findIndex(
    (_, index) =>
      applyPatch(before, { ...one, hunks: one.hunks.slice(0, index + 1) }, { fuzzFactor: fuzz }) === false,
  );
  const hunk = one.hunks[Math.max(0, at)];
  if (!hunk) return "";
  const head = `@@ -${hunk.oldStart},${hunk.oldLines} +${hunk.newStart},${hunk.newLines} @@`;
  return [head, ...hunk.lines].join("\n").slice(0, 2000);
}

export function patchHandlers(platform: Platform): Handler[] {
  return [
    handler(r.patch, async (call) => {
      const { dry_run: dryRun, fuzz } = call.body;
      const folder = sandboxPath(call.body.path).replace(/(.)\/$/, "$1");
      let parsed: StructuredPatch[];
      try {
        parsed = parsePatch(call.body.patch);
      } catch (cause) {
        throw new PlatformError("VALIDATION_FAILED", "patch is no unified diff.", {
          errors: { patch: [cause instanceof Error ? cause.message.slice(0, 500) : "is no unified diff"] },
          cause,
        });
      }
      const files = parsed.filter((one) => one.hunks.length > 0 || one.oldFileName !== one.newFileName);
      if (files.length === 0 || files.length > mostFiles)
        throw new PlatformError("VALIDATION_FAILED", `patch changes no file, or more than ${mostFiles}.`, {
          errors: { patch: ["changes no file, or too many"] },
        });
      const { guest } = await liveSandbox(platform, call.caller, call.params["id"]!);
      const seen: (Change | Reject)[] = [];
      for (const one of files) seen.push(await changeOf(guest, folder, one, fuzz));
      const rejects = seen.filter((one): one is Reject => "reason" in one);
      if (rejects.length > 0)
        throw new PlatformError(
          "PATCH_REJECTED",
          `${rejects.length} of ${files.length} files do not take the patch, so nothing was changed. details.rejects says which and why: read them again and make the patch anew.`,
          { details: { rejects } },
        );
      const changes = seen as Change[];
      if (!dryRun) {
        for (const change of changes) {
          try {
            if (change.content !== null) await guest.writeFile(change.path, change.content);
            if (change.content === null || change.from !== change.path)
              await guest.filesystem.remove({ path: change.from });
          } catch (error) {
            throw guestProblem(error, change.path);
          }
        }
      }
      return { files: changes.map(({ path, action, hunks }) => ({ path, action, hunks })), dry_run: dryRun };
    }),
  ];
}
