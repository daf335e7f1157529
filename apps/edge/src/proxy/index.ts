export { forward, isTimeout, type ForwardRequest } from "./forward.ts";
export { BoxPools, ServiceOrigin, ServiceOrigins, type BoxTarget, type Origin } from "./pools.ts";
export { Tunnels } from "./tunnel.ts";
export {
  clientAddress,
  closeHeader,
  isFronted,
  markFronted,
  publicDoorHeader,
  schemeOf,
  type ForwardedFacts,
} from "./headers.ts";
export type { Outcome, Rewrite, Rewritten } from "./relay.ts";
