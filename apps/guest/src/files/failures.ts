import { EnvdError } from "../http.ts";

/** A file operation's failure as envd words it, by the kernel's error code. */
export function fileFailure(error: unknown, path: string): unknown {
  if (error instanceof EnvdError) return error;
  const { code } = error as NodeJS.ErrnoException;
  const known: Record<string, [number, string]> = {
    ENOENT: [404, `path '${path}' does not exist`],
    EISDIR: [400, `path '${path}' is a directory`],
    ENOTDIR: [400, `a part of path '${path}' is not a directory`],
    EEXIST: [400, `a part of path '${path}' is not a directory`],
    ENAMETOOLONG: [400, `path '${path}' is too long`],
    ELOOP: [400, `path '${path}' has too many symbolic links`],
    ERR_INVALID_ARG_VALUE: [400, "path holds a zero byte"],
    ENXIO: [400, `nothing reads or writes at path '${path}'`],
    Z_DATA_ERROR: [400, "the body is not what its content-encoding says: it is no gzip, or damaged"],
    Z_BUF_ERROR: [400, "the gzip body ends early"],
    EACCES: [403, `permission denied for path '${path}'`],
    EPERM: [403, `permission denied for path '${path}'`],
    EROFS: [403, `path '${path}' is on a read-only file system`],
    ENOSPC: [507, "not enough disk space available"],
    EDQUOT: [507, "not enough disk space available: quota exceeded"],
  };
  const entry = known[code ?? ""];
  return entry ? new EnvdError(entry[0], entry[1], { cause: error }) : error;
}
