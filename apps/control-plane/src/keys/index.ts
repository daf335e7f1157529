export { createAuthenticator } from "./authenticate.ts";
export { ensureBootstrapKey } from "./bootstrap.ts";
export { hashSecret, newSecret } from "./secret.ts";
export { ticketHandlers } from "./tickets.ts";
