import { createHash } from "node:crypto";
import type { Readable } from "node:stream";
import { sourceDateEpoch } from "./debian.ts";
import { runProgram } from "./run-program.ts";

export interface MeasuredTree {
  /** `sha256:` and 64 hexadecimal digits. */
  readonly digest: string;
  /** Of the archive that the digest is taken of. */
  readonly sizeBytes: number;
}

/**
 * Digest of a tree's content: names, modes, owners, links, bytes, and times no newer than the epoch.
 * Equal trees have equal digests wherever and whenever they were made.
 *
 * @param prefix mixed in first, for what belongs to an image beside its tree
 */
export async function measureTree(folder: string, signal: AbortSignal, prefix = ""): Promise<MeasuredTree> {
  const hash = createHash("sha256").update(prefix);
  let sizeBytes = 0;
  const consume = async (output: Readable) => {
    for await (const chunk of output as AsyncIterable<Buffer>) {
      hash.update(chunk);
      sizeBytes += chunk.length;
    }
  };
  const args = [
    ...["-n", "10", "tar", "--create", "--file=-", `--directory=${folder}`, "--sort=name", "--format=posix"],
    ...["--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime", "--numeric-owner"],
    ...[`--mtime=@${sourceDateEpoch}`, "--clamp-mtime", "--xattrs", "--xattrs-include=security.capability"],
    ".",
  ];
  const said: string[] = [];
  const end = await runProgram("nice", args, {
    signal,
    onOutput: consume,
    onLine: (_stream, line) => said.push(line),
  });
  if (end.code !== 0)
    throw new Error(`tar ended with ${end.signal ?? end.code}: ${said.slice(-3).join("; ")}`);
  return { digest: `sha256:${hash.digest("hex")}`, sizeBytes };
}
