export { domainHandlers } from "./routes.ts";
export { recheckDomains } from "./recheck.ts";
