export { headersForApp, headersFromApp, upgradeHeadersFromApp } from "./app-headers.ts";
export { isReservedCookie, platformCookiePrefix, type AppGuard } from "./guard.ts";
export { isIdentityHeader } from "./identity.ts";
