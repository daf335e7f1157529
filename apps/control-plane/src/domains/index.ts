export { domainHandlers } from "./routes.ts";
