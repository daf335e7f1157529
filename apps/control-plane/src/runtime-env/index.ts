export { runtimeEnvHandlers } from "./routes.ts";
