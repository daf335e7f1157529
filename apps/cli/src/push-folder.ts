import { randomUUID } from "node:crypto";
import { ApiError, type Client } from "@platform/sdk";
import { packFolder, type PackedFolder } from "./app-folder.ts";
import { CliError, exitCodes } from "./failure.ts";

/** Base64 makes 4 of 3, and a server may refuse bodies over some megabytes. */
const pieceBytes = 3 * 1024 * 1024;

/**
 * Sends a folder's files into the sandbox: one tar in bounded pieces, unpacked there. Files that the
 * folder does not have stay.
 *
 * @throws CliError UPLOAD_FAILED when a piece could not be stored or unpacked
 */
export async function pushFolder(
  client: Client,
  sandboxId: string,
  folder: string,
  options: { target?: string; excluded?: readonly string[] } = {},
): Promise<PackedFolder> {
  const packed = await packFolder(folder, options.excluded);
  const target = options.target ?? "/workspace";
  const scratch = `/tmp/upload-${randomUUID()}`;
  for (let offset = 0, part = 0; offset < packed.tar.length; offset += pieceBytes, part++) {
    const path = `${scratch}/${String(part).padStart(6, "0")}`;
    const content = packed.tar.subarray(offset, offset + pieceBytes);
    const result = await client.sandboxes.writeMany(sandboxId, [{ path, content }]);
    const refusal = result.failed[0];
    if (refusal) throw uploadFailed(`${refusal.path}: ${refusal.error}`);
  }
  const unpack = `mkdir -p ${quote(target)} && cat ${scratch}/* | tar -xf - -C ${quote(target)} --no-same-owner; status=$?; rm -rf ${scratch}; exit $status`;
  const result = await client.sandboxes.exec(sandboxId, { command: unpack, cwd: "/", timeout: 120 });
  if (result.exit_code !== 0)
    throw uploadFailed(result.stderr.trim() || `tar ended with ${result.exit_code}`);
  return packed;
}

function uploadFailed(reason: string): CliError {
  const remedy = "Look whether the sandbox's disk is full (df -h), then push again.";
  return new CliError("UPLOAD_FAILED", `The files did not arrive: ${reason}.`, remedy, exitCodes.server);
}

/** One word for a POSIX shell. */
export const quote = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;

export const isApiError = (error: unknown, status: number): error is ApiError =>
  error instanceof ApiError && error.status === status;
