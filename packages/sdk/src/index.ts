export { createClient, type Client } from "./client.ts";
export { ApiError, ConnectionError } from "./error.ts";
export { isLocalhost, localhostDispatcher, lookupLocalhost } from "./localhost.ts";
export { newIdempotencyKey, type ClientOptions, type FetchLike } from "./transport.ts";
export type { FileInChunks, PromotionView, RuntimeInstance, SentUpload } from "./deployments.ts";
export { isReady as isDatabaseReady, type DatabaseQuery, type DatabaseQueryResult } from "./databases.ts";
export { parseEvents, type ServerEvent } from "./sse.ts";
export type * from "./types.ts";
export type { Certificate, DnsRecord, Domain, Wildcard } from "./domains.ts";
