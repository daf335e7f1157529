export { auditHandlers } from "./routes.ts";
export { AuditWriter } from "./writer.ts";
