import type { Handler } from "../http/index.ts";

/** Operations that every kind of device has; served by the very handlers of sandboxes. */
const mirrored: ReadonlySet<string> = new Set([
  "listSandboxes",
  "getSandbox",
  "exec",
  "execStream",
  "listFiles",
  "readFile",
  "writeFile",
  "downloadFile",
  "expose",
  "pauseSandbox",
  "resumeSandbox",
]);

/** `/devices` shows sandboxes under one name with whatever other kinds of machine there will be. */
export const deviceHandlers = (all: readonly Handler[]): Handler[] =>
  all
    .filter(({ route }) => mirrored.has(route.id))
    .map(({ route, handle }) => ({
      handle,
      route: {
        ...route,
        id: `device${route.id[0]!.toUpperCase()}${route.id.slice(1)}`,
        path: route.path.replace(/^\/sandboxes/, "/devices"),
        tag: "Devices",
      },
    }));
