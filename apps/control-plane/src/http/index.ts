export { registerPublicPages } from "./public-pages.ts";
export { createServer, type AuditEntry, type ServerOptions } from "./server.ts";
export { handler, type Call, type Caller, type Handler } from "./context.ts";
export { serveTunnel } from "./socket-tunnel.ts";
export { closeSocket, upgrade } from "./upgrade.ts";
export { openEventStream, type EventStream } from "./sse.ts";
export { derivedId } from "./idempotency.ts";
