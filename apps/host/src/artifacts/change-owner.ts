import { execFile } from "node:child_process";
import { promisify } from "node:util";

/** Hands a copied tree to another uid; links themselves change owner, never what they lead to. */
export async function changeOwner(
  folder: string,
  from: number,
  to: { readonly uid: number; readonly gid: number },
): Promise<void> {
  if (from === to.uid) return;
  await promisify(execFile)("chown", ["-R", "-h", "-P", `${to.uid}:${to.gid}`, "--", folder]);
}
