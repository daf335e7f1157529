import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";

/** Takes off what a killed host left mounted below a test's folder, so that the folder can be removed. */
export function unmountBelow(folder: string): void {
  const mounted = readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .map((line) => line.split(" ")[4] ?? "")
    .filter((path) => path.startsWith(`${folder}/`));
  for (const path of mounted.toReversed()) execFileSync("umount", ["-l", "--", path], { stdio: "pipe" });
}
