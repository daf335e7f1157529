import { createHash } from "node:crypto";
import type { IncomingMessage } from "node:http";

/** Names the folder that the front asks in, for what it may keep; only the front can send it. */
export const fillHeader = "x-edge-fill";
/** What the client is told about keeping it, where the front is told something else. */
export const clientCacheHeader = "x-edge-cache-control";
/** The front forgets by itself; another release has other names there. */
export const frontCacheControl = "public, max-age=86400";

/** Under which the front keeps the files of a bundle: the same name means the same answers. */
export const fillName = (target: { readonly digest: string; readonly spaFallback: boolean }): string =>
  createHash("sha256").update(`${target.digest} ${target.spaFallback}`).digest("hex").slice(0, 24);

/** Whether what the front asked for is kept under this name, whatever forms it asked for. */
export const isFillOf = (fill: string | null, target: Parameters<typeof fillName>[0]): boolean =>
  fill?.split("-")[0] === fillName(target);

/** Takes the front's folder out of the target. @returns its name; `null`: an ordinary request */
export function takeFill(exchange: { readonly req: IncomingMessage; target: string }): string | null {
  const name = exchange.req.headers[fillHeader];
  if (typeof name !== "string" || !exchange.target.startsWith(`/${name}/`)) return null;
  exchange.target = exchange.target.slice(name.length + 1);
  return name;
}
