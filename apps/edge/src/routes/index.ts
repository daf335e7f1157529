export { normalizeHostname, isMachineName } from "./hostname.ts";
export { RouteTable, type ServedRoute, type TableContent } from "./table.ts";
export { Lease } from "./lease.ts";
export { LocalCopy, LocalCopyRefused } from "./local-copy.ts";
export { RouteFeed } from "./feed.ts";
