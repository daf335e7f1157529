export { auditHandlers } from "./routes.ts";
export { AuditWriter, auditIn } from "./writer.ts";
