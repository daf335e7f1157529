import { Code, ConnectError } from "@connectrpc/connect";

/** Runs a file operation and turns the kernel's refusal into a Connect error. */
export async function guarded<T>(path: string, action: (path: string) => Promise<T>): Promise<T> {
  try {
    return await action(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const known: Record<string, [Code, string]> = {
      ENOENT: [Code.NotFound, `path not found: ${path}`],
      ENOTDIR: [Code.InvalidArgument, `a part of the path is not a directory: ${path}`],
      EISDIR: [Code.InvalidArgument, `path is a directory: ${path}`],
      EEXIST: [Code.AlreadyExists, `path exists already: ${path}`],
      ENOTEMPTY: [Code.AlreadyExists, `the destination of ${path} is a directory that is not empty`],
      EINVAL: [Code.InvalidArgument, `a directory cannot be moved into itself: ${path}`],
      ELOOP: [Code.InvalidArgument, `too many symbolic links, or links that lead in a circle: ${path}`],
      ENXIO: [Code.InvalidArgument, `nothing reads or writes at: ${path}`],
      ENAMETOOLONG: [Code.InvalidArgument, `path is too long: ${path}`],
      ERR_INVALID_ARG_VALUE: [Code.InvalidArgument, "path holds a zero byte"],
      EACCES: [Code.PermissionDenied, `permission denied: ${path}`],
      EPERM: [Code.PermissionDenied, `permission denied: ${path}`],
      EROFS: [Code.PermissionDenied, `read-only file system: ${path}`],
      EBUSY: [Code.FailedPrecondition, `a mount point cannot be changed: ${path}`],
      ENOSPC: [Code.ResourceExhausted, "not enough disk space available"],
    };
    const entry = known[code ?? ""];
    if (entry) throw new ConnectError(entry[1], entry[0], undefined, undefined, error);
    throw error;
  }
}
