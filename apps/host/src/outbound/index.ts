export { OutboundFactory, type OutboundProxy, type OutboundAttempt } from "./proxy.ts";
export type { ResolveDatabase, ResolveName } from "./target.ts";
export { dialAsBox } from "./way.ts";
