export { createAuthenticator } from "./authenticate.ts";
export { ensureBootstrapKey } from "./bootstrap.ts";
export { keyHandlers } from "./routes.ts";
export { scopedTokenHandlers } from "./scoped-tokens.ts";
export { hashSecret, newSecret } from "./secret.ts";
export { ticketHandlers } from "./tickets.ts";
