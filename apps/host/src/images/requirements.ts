import { access, constants } from "node:fs/promises";
import { join } from "node:path";

const tools = [
  { program: "mmdebstrap", package: "mmdebstrap" },
  { program: "tar", package: "tar" },
  { program: "flock", package: "util-linux" },
];
const folders = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

async function isInstalled(program: string): Promise<boolean> {
  for (const folder of folders) {
    try {
      await access(join(folder, program), constants.X_OK);
      return true;
    } catch {
      // Not in this folder; the next one decides.
    }
  }
  return false;
}

/** Why images cannot be built on this machine and what to do, or `null`. @param onOther begins with another image, not with packages of this machine’s release */
export async function whyNoBuilds(runsAsRoot: boolean, onOther = false): Promise<string | null> {
  if (!runsAsRoot)
    return "Images are built as root only: files of many owners are made. Start the platform as root once, or use template host.";
  const missing: string[] = [];
  for (const tool of tools)
    if (!(onOther && tool.program === "mmdebstrap") && !(await isInstalled(tool.program)))
      missing.push(tool.package);
  return missing.length === 0
    ? null
    : `Images are built by ${missing.join(", ")}. Install it with: apt-get install -y ${missing.join(" ")}`;
}
