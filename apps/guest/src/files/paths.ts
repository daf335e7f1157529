import { isAbsolute, join, normalize } from "node:path";

/**
 * Absolute path for what a client wrote: `~` and relative paths refer to the home folder.
 * Nothing is kept from leaving it: the box is the border, and everything in it belongs to the client.
 *
 * @param fallback for an empty path
 */
export function resolvePath(path: string, home: string, fallback: string): string {
  if (path === "") return fallback;
  if (path === "~") return home;
  if (path.startsWith("~/")) return join(home, path.slice(2));
  const absolute = normalize(isAbsolute(path) ? path : join(home, path));
  return absolute.length > 1 && absolute.endsWith("/") ? absolute.slice(0, -1) : absolute;
}
