import { z } from "zod";

export {
  AcmeChallenge,
  CertificateAnswer,
  CertificateEntry,
  CertificateUpdate,
  CertificateWish,
  openCertificate,
  sealCertificate,
  type CertificatePair,
} from "./certificates.ts";
export {
  guestAgentPort,
  parseSandboxHostname,
  sandboxRouteHostname,
  sandboxToken,
  type SandboxTokenKind,
} from "./sandbox-access.ts";

/**
 * What the control plane tells every edge. An edge asks
 * `GET /internal/edge/routes?edge=ID&applied=V&wait_ms=1500` (bearer: the edge token) and gets a
 * RouteUpdate as soon as something newer than V exists, or 204 when the wait is over. Asking with
 * `applied=V` acknowledges V: a promote counts as done only when every live edge has asked so.
 */

/** On every page that an edge answers with by itself; its value is the kind of page. Apps' answers have none. */
export const edgePageHeader = "x-edge-page";

/** An asset of a brand, whole: pages load nothing from elsewhere and need no other program. */
const DataUrl = z
  .string()
  .regex(/^data:[a-z]+\/[a-z0-9.+-]+;base64,[A-Za-z0-9+/=]*$/)
  .nullable()
  .default(null);

export const Brand = z.object({
  tenantId: z.string(),
  /** Deployment or sandbox that this look is for; null: whatever the tenant has. */
  appId: z.string().nullable().default(null),
  name: z.string(),
  domain: z.string().describe("Brand domain, such as cliniciq.com"),
  /** Other domains of the tenant, under which its apps and previews lie. */
  domains: z.array(z.string()).default([]),
  colorPrimary: z.string().default("#2563eb"),
  colorBackground: z.string().default("#ffffff"),
  /** Of links; null: the primary colour. */
  colorAccent: z.string().nullable().default(null),
  /** Names of font families, as in a style sheet. */
  fontFamily: z.string().nullable().default(null),
  logo: DataUrl,
  /** The logo on a dark ground. */
  logoLight: DataUrl,
  favicon: DataUrl,
  /** A WOFF2 font, which stands before those of `fontFamily`. */
  font: DataUrl,
  supportUrl: z.string().nullable().default(null),
  supportEmail: z.string().nullable().default(null),
  legalLinks: z.array(z.object({ label: z.string(), url: z.string() })).default([]),
  /** Language of a page when the visitor asks for none that there is. */
  language: z.string().nullable().default(null),
  /** Cookies of the tenant's own under its domain, lower case; `*` at the end stands for any ending. */
  reservedCookies: z.array(z.string()).default([]),
  /** Pages of the tenant's own by kind, or kind and language: `not_found`, `not_found.es`. Sanitised. */
  pages: z.record(z.string(), z.string()).default({}),
});
export type Brand = z.output<typeof Brand>;

/** Where a box's port is dialled: through its host, with `CONNECT <boxKey>:<port>` on `hostUrl`. */
export const BoxUpstream = z.object({ hostUrl: z.string(), boxKey: z.string(), port: z.int() });
export type BoxUpstream = z.output<typeof BoxUpstream>;

/** Hexadecimal SHA-256 of the token that a private preview asks for; null: everybody may see it. */
const AccessSha256 = z.string().length(64).nullable().default(null);

/** Further tokens that open a private preview, each until its time, milliseconds since 1970. */
const AccessGrants = z
  .array(z.object({ sha256: z.string().length(64), until: z.number() }))
  .max(200)
  .optional();

/** True: pages get a script that reports what their console says. Previews only; see `ConsoleBatch`. */
const BrowserConsole = z.boolean().optional();

const Boxes = z.object({ type: z.literal("boxes"), upstreams: z.array(BoxUpstream).min(1) });
/** Files of a bundle in the artifact store; `spaFallback` serves index.html for unknown paths without extension. */
const StaticFiles = z.object({
  type: z.literal("static"),
  digest: z.string(),
  spaFallback: z.boolean().default(false),
});

/** Another release of the same deployment, and what serves it. */
export const OtherRelease = z.object({
  releaseId: z.string(),
  target: z.discriminatedUnion("type", [Boxes, StaticFiles]),
});
export type OtherRelease = z.output<typeof OtherRelease>;

/**
 * A release that gets a part of the requests. What it refuses, and each repeatable request that it answers
 * with 5xx, is answered by the main release instead and counted against the canary.
 */
export const Canary = OtherRelease.extend({
  percent: z.number().min(0).max(100),
  /** `client`: by a hash of address and user agent, so that a visitor stays where they are; `request`: by chance. */
  sticky: z.enum(["client", "request"]),
});
export type Canary = z.output<typeof Canary>;

const sharedTraffic = {
  canary: Canary.optional(),
  /** Answers what the main release does not take at all: the one before it, while the new one is on trial. */
  fallback: OtherRelease.optional(),
};

export const RouteTarget = z.discriminatedUnion("type", [
  Boxes.extend({
    rewriteHost: z.string().nullable().default(null),
    accessSha256: AccessSha256,
    grants: AccessGrants,
    ...sharedTraffic,
    /**
     * Once no route leads to their box any more, WebSockets are closed with 1001 after this time,
     * milliseconds; absent: each lives until one of its ends closes it.
     */
    webSocketCloseMs: z.int().min(0).optional(),
    console: BrowserConsole,
  }),
  StaticFiles.extend(sharedTraffic),
  /** Requests wait for the route to change, each for at most the edge's own bound. */
  z.object({ type: z.literal("hold") }),
  z.object({ type: z.literal("control-plane") }),
  /** Another program of the platform, such as the object store; it sees the Host header as it was sent. */
  z.object({ type: z.literal("service"), url: z.url({ protocol: /^http$/ }) }),
  /** The same path and query at another host name, for good (status 308). */
  z.object({ type: z.literal("redirect"), hostname: z.string() }),
  /** A branded page instead of an app. `starting` refreshes itself. */
  z.object({
    type: z.literal("page"),
    page: z.enum([
      "starting",
      "stopped",
      "error",
      "maintenance",
      "build_failed",
      "start_failed",
      "over_quota",
      "certificate_pending",
    ]),
    /** In the visitor's words; nothing of the machine's. */
    detail: z.string().nullable().default(null),
    /** For `starting`: since when, milliseconds since 1970. Absent: since the first visitor asked. */
    since: z.number().optional(),
  }),
  /**
   * Every port of one sandbox, and its agent under the port `guestAgentPort`. The route's host name is
   * `sandboxRouteHostname`. `token` asks for the token that `sandboxToken` derives.
   */
  z.object({
    type: z.literal("sandbox"),
    sandboxId: z.string(),
    upstream: z.object({ hostUrl: z.string(), boxKey: z.string() }),
    state: z.enum(["running", "paused"]),
    /** Traffic to a paused sandbox wakes it; else it is answered as if the sandbox were gone. */
    wakes: z.boolean(),
    guestAccess: z.enum(["public", "token"]),
    trafficAccess: z.enum(["public", "token"]),
    /** Host header towards the ports; `${PORT}` stands for the port. */
    rewriteHost: z.string().nullable().default(null),
  }),
  /** As `page: starting`, and the edge asks POST /internal/edge/wake {hostname} once. */
  z.object({
    type: z.literal("wake"),
    accessSha256: AccessSha256,
    grants: AccessGrants,
    console: BrowserConsole,
  }),
]);
export type RouteTarget = z.output<typeof RouteTarget>;

export const Route = z.object({
  /**
   * Lower case, without port. `*.NAME` stands for all names below NAME that have no route of their own,
   * `*-ID.NAME` for the ports of a sandbox.
   */
  hostname: z.string(),
  tenantId: z.string(),
  kind: z.enum(["api", "sandbox", "preview", "deployment", "custom", "storage"]),
  target: RouteTarget,
  /** For access logs: what served the request. */
  deploymentId: z.string().nullable().default(null),
  releaseId: z.string().nullable().default(null),
  sandboxId: z.string().nullable().default(null),
});
export type Route = z.output<typeof Route>;

/**
 * An edge serves under a lease: for this long from the moment it sent the last question that was answered
 * and carried out, milliseconds on its own monotonic clock. See decision 4.
 */
export const edgeLeaseMs = 5_000;

/** How long an edge lets the control plane think about one question, milliseconds: well below the lease. */
export const edgePollMs = 1_500;

/** Same suffix rule for unknown names: the longest brand domain that the name ends in owns the page. */
export const RouteUpdate = z.object({
  version: z.int(),
  /** True: forget everything known before. */
  full: z.boolean(),
  brands: z.array(Brand),
  routes: z.array(Route),
  removed: z.array(z.string()),
  /** Addresses of hosts that keep fences for edges; an edge asks them when the control plane is silent. */
  witnesses: z
    .array(z.url({ protocol: /^http$/ }))
    .max(1_000)
    .default([]),
});
export type RouteUpdate = z.output<typeof RouteUpdate>;

/** POST /internal/edge/requests, at most 1,000 a batch. */
export const RequestLogEntry = z.object({
  at: z.string(),
  requestId: z.string(),
  deploymentId: z.string().nullable(),
  releaseId: z.string().nullable(),
  /** A release that was asked first and failed; another one's answer was sent. */
  failedReleaseId: z.string().nullable().default(null),
  sandboxId: z.string().nullable(),
  hostname: z.string(),
  method: z.string(),
  path: z.string().max(2048).describe("Without query"),
  status: z.int(),
  durationMs: z.number(),
  bytes: z.int().min(0).default(0).describe("Sent to the client, head included"),
});
export type RequestLogEntry = z.output<typeof RequestLogEntry>;

/** What a page in a visitor's browser said; nobody vouches for it but the visitor. */
export const ConsoleEntry = z.object({
  at: z.iso.datetime().describe("When the edge got it"),
  level: z.enum(["error", "warn", "info", "log", "debug"]),
  /** `notice`: the edge's own word, such as why a page is not captured. */
  kind: z.enum(["console", "exception", "rejection", "request", "resource", "notice"]),
  text: z.string().max(4_096),
  /** Path of the page, without query. */
  page: z.string().max(1_024).nullable(),
  /** Script that it came from, or address of what failed to load; without query. */
  source: z.string().max(1_024).nullable(),
  line: z.int().min(0).nullable(),
  column: z.int().min(0).nullable(),
  stack: z.string().max(4_096).nullable(),
  /** Of a request that failed; status null: no answer came. */
  method: z.string().max(20).nullable(),
  status: z.int().min(0).max(999).nullable(),
});
export type ConsoleEntry = z.output<typeof ConsoleEntry>;

/** POST /internal/edge/console, an array of at most 100. */
export const ConsoleBatch = z.object({
  sandboxId: z.uuid(),
  hostname: z.string(),
  entries: z.array(ConsoleEntry).max(100),
  /** Entries that came too fast, or too large, to be kept. */
  dropped: z.int().min(0),
});
export type ConsoleBatch = z.output<typeof ConsoleBatch>;

/** What the control plane says of POST /internal/edge/wake; `refused`: the app may not start now. */
export const WakeAnswer = z.object({ refused: z.enum(["over_quota"]).optional() });
export type WakeAnswer = z.output<typeof WakeAnswer>;
