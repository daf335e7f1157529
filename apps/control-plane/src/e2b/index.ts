export { clientApiHostname, ensureClientApiRoutes } from "./hostnames.ts";
export { isClientApiHost, registerClientApi, clientApiPrefix } from "./server.ts";
