import type { StaticBundle } from "./bundles.ts";

/**
 * What a path means in a bundle. `refused` covers everything that no honest link contains: dot
 * segments, encoded separators, NUL, broken escapes.
 */
export type Located =
  | { type: "file"; path: string; status: 200 | 404; isFallback?: true }
  | { type: "redirect"; location: string }
  | { type: "missing" }
  | { type: "refused" };

export interface LocateOptions {
  readonly spaFallback: boolean;
  /** A browser opens this address, rather than loads a part of a page. */
  readonly isNavigation: boolean;
}

/** @param target origin form, with query */
export function locate(bundle: StaticBundle, target: string, options: LocateOptions): Located {
  const [encoded = "", ...query] = target.split("?");
  const path = decodePath(encoded);
  if (path === null) return { type: "refused" };
  const name = path.slice(1);
  if (isHidden(name)) return { type: "missing" };
  const folderIndex = name === "" || name.endsWith("/") ? `${name}index.html` : null;
  if (bundle.files.has(folderIndex ?? name)) {
    return { type: "file", path: folderIndex ?? name, status: 200 };
  }
  if (!folderIndex && bundle.files.has(`${name}/index.html`)) {
    // Relative links of the page work only below the slash.
    const suffix = query.length > 0 ? `?${query.join("?")}` : "";
    return { type: "redirect", location: `${encoded}/${suffix}` };
  }
  const isExtensionless = !/\.[^/]*$/.test(name.slice(name.lastIndexOf("/") + 1));
  if (options.spaFallback && options.isNavigation && isExtensionless && bundle.files.has("index.html")) {
    return { type: "file", path: "index.html", status: 200, isFallback: true };
  }
  if (bundle.files.has("404.html")) return { type: "file", path: "404.html", status: 404 };
  return { type: "missing" };
}

function decodePath(encoded: string): string | null {
  if (/%(2f|5c|00)/i.test(encoded)) return null;
  let path: string;
  try {
    path = decodeURIComponent(encoded);
  } catch (error) {
    if (error instanceof URIError) return null;
    throw error;
  }
  if (!path.startsWith("/") || path.includes("\\") || path.includes("\0")) return null;
  const segments = path.slice(1).split("/");
  const hasEmptySegment = segments.slice(0, -1).includes("");
  if (hasEmptySegment || segments.includes(".") || segments.includes("..")) return null;
  return path;
}

/** Files such as .env are never served; .well-known is there to be served. */
function isHidden(name: string): boolean {
  return name
    .split("/")
    .some((segment, i) => segment.startsWith(".") && !(i === 0 && segment === ".well-known"));
}
