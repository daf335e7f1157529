export type { Zone } from "./answer.ts";
export { DnsServer } from "./server.ts";
