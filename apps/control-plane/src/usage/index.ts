export { spent } from "./measure.ts";
export { usageHandlers } from "./routes.ts";
