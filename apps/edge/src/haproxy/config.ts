import { join } from "node:path";
import { closeHeader } from "../proxy/index.ts";
import { clientCacheHeader, fillHeader } from "../static/index.ts";

/** Backends that share the dynamic servers: a server is found by its name among those of one backend. */
export const SHARDS = 64;

export interface PlaneConfig {
  /** Folder of sockets and maps; nobody else may enter it. */
  readonly folder: string;
  readonly port: number;
  /** Null: no HTTPS. */
  readonly tlsPort: number | null;
  readonly maxConnections: number;
  /** Null: the port in the Host header, or the listening one. */
  readonly publicPort: number | null;
  /** A proxy of the operator in front sets X-Forwarded-*. */
  readonly trustForwarded: boolean;
  readonly threads: number;
}

export const nodeSocket = (folder: string): string => join(folder, "node.sock");
export const nodeTlsSocket = (folder: string): string => join(folder, "node-tls.sock");
const hotTlsSocket = (folder: string): string => join(folder, "hot-tls.sock");
export const certificatesMap = (folder: string): string => join(folder, "certificates.map");
/** Names the certificates; they themselves are in memory alone. */
export const certificateList = (folder: string): string => join(folder, "certificates.list");
export const adminSocket = (folder: string): string => join(folder, "admin.sock");
export const hostsMap = (folder: string): string => join(folder, "hosts.map");
export const configFile = (folder: string): string => join(folder, "haproxy.cfg");
/** Third word of a target: the host name lies under a tenant's shared domain. */
export const sharedMark = "shared";
/** Backend that keeps files of bundles in memory. */
export const staticBackend = "static";
export const shardName = (index: number): string => `hot${index}`;

/** As `isIdentityHeader`: what only the platform says about a client, with `_` for `-`. */
const identityHeaders = [
  ...["x.real.ip", "x.client.ip", "x.cluster.client.ip", "true.client.ip", "client.ip", "forwarded"],
  ...["x.original.url", "x.rewrite.url", "x.original.host", "x.host", "x.public.door"],
  ...["x.remote.user", "remote.user", "x.authenticated.user", "x.webauth.user"],
  ...["x.request[_].?id", "x[_]request.id"],
  ...["x.edge..*", "x.original.forwarded..*", "x.auth.request..*"],
  ...["x.forwarded..*"],
].map((name) => name.replaceAll(/(?<!\.)\.(?![*?])/g, "[-_]"));
const trustedHeaders = "x-forwarded-(?:for|proto|host|port)$";

/** What HAProxy says by itself, of requests that it cannot even read: nobody's name is on it. */
const refusals = [
  [400, "Bad request", "The request could not be read. Check its method, address and headers."],
  [408, "Request time-out", "The request did not arrive in time. Send it again."],
  [500, "Error", "The request could not be answered. Try again later."],
  [502, "Bad gateway", "The app ended the connection. Try again later."],
  [503, "Unavailable", "The service cannot be reached now. Try again in a few seconds."],
  [504, "Time-out", "The app did not answer in time. Try again later."],
] as const;
const refusal = ([status, title, detail]: (typeof refusals)[number]) => {
  const code = title.toUpperCase().replaceAll(/[ -]/g, "_");
  const text = JSON.stringify({ type: "about:blank", title, status, code, detail });
  return `  http-error status ${status} content-type application/problem+json string '${text}' hdr cache-control no-store\n`;
};

/**
 * The front: it answers hosts in `hosts.map` by itself, to everything else and to every odd request it
 * leads to the Node edge, with the headers that the Node edge believes because nobody else reaches its socket.
 */
export function planeConfig(options: PlaneConfig): string {
  const { folder, port, tlsPort, maxConnections, publicPort, trustForwarded, threads } = options;
  const identity = `^(?:${identityHeaders.join("|")})$`;
  const strip = trustForwarded ? `^(?!${trustedHeaders})(?:${identityHeaders.join("|")})$` : identity;
  // The public port is that of HTTP: who came by TLS came by another one.
  const setPort =
    publicPort === null ? "" : `\n  http-request set-var(txn.port) int(${publicPort}) unless { ssl_fc }`;
  const unlessTrusted = (name: string) => (trustForwarded ? ` unless { req.hdr(${name}) -m found }` : "");
  return `global
  stats socket ${adminSocket(folder)} mode 600 level admin
  stats timeout 30s
  maxconn ${maxConnections}
  # Each takes two descriptors; a body that finds none free is copied instead.
  maxpipes 100
  nbthread ${threads}
  # A block of headers that the Node edge has a page for passes; larger buffers cost each request.
  tune.bufsize 81920
  tune.maxrewrite 4096
  tune.http.maxhdr 512
  tune.pool-low-fd-ratio 40
  log fd@1 format raw local0 info
  hard-stop-after 15s

defaults
  mode http
  timeout connect 10s
  timeout client 65s
  timeout server 300s
  timeout http-request 30s
  timeout http-keep-alive 65s
  timeout tunnel 24h
  timeout client-fin 30s
  timeout check 400ms
  option http-no-delay
  option splice-auto
  option dontlognull
  option abortonclose
  unique-id-format %{+X}o%ci%cp%fi%fp%Ts%rt%pid
  http-reuse safe
${refusals.map(refusal).join("")}
frontend http
  log global
  bind 127.0.0.1:${port}
${tlsPort === null ? "" : `  bind unix@${hotTlsSocket(folder)} mode 600 accept-proxy ssl crt-list ${certificateList(folder)} strict-sni alpn h2,http/1.1 ssl-min-ver TLSv1.2\n`}  http-request set-var(txn.host) req.hdr(host),field(1,:),lower
  http-request set-var(txn.target) var(txn.host),map_str(${hostsMap(folder)}) if { nbsrv(lease) gt 0 }
  # What is odd in any way is the Node edge's to judge.
  acl is_plain method GET HEAD POST PUT PATCH DELETE OPTIONS
  acl is_http11 req.ver 1.1
  # Its address is whole: it names the host that HAProxy has put into Host.
  acl is_http2 req.ver 2.0
  acl has_path url_beg /
  acl has_rooted_path path_beg /
  acl one_host req.hdr_cnt(host) eq 1
  acl expects req.hdr(expect) -m found
  acl has_cookie req.hdr(cookie) -m found
  acl is_upgrade req.hdr(upgrade) -m found
  acl names_headers req.fhdr(connection),lower -m found
  acl plain_connection req.fhdr(connection),lower -m str keep-alive close upgrade "keep-alive, upgrade" "upgrade, keep-alive"
  acl is_websocket req.hdr(upgrade),lower -m str websocket
  acl offers_protocols req.hdr(sec-websocket-protocol) -m found
  acl has_identity_sandbox req.hdr(e2b-sandbox-id) -m found
  acl is_hot var(txn.target) -m found
  http-request set-var(txn.cold) str(1) if !is_plain or !is_http11 !is_http2 or !has_path !is_http2 or !has_rooted_path or !one_host or expects or has_cookie or has_identity_sandbox
  http-request set-var(txn.cold) str(1) if names_headers !plain_connection
  http-request set-var(txn.cold) str(1) if is_upgrade !is_websocket
  http-request set-var(txn.cold) str(1) if offers_protocols
  # Its page knows the tenant.
  http-request set-var(txn.cold) str(1) if { internal.htx.data gt 65000 } { req.hdrs,length gt 65000 }
  http-request unset-var(txn.target) if { var(txn.cold) -m found }
  # One that is given and well-formed is kept, as the Node edge keeps it.
  http-request set-var(txn.id) req.hdr(x-request-id) if { req.hdr(x-request-id) -m reg '^[A-Za-z0-9._:-]{1,128}$' } { req.hdr_cnt(x-request-id) eq 1 }
  http-request set-var(txn.id) uuid() unless { var(txn.id) -m found }
  http-request set-var(txn.port) dst_port unless { ssl_fc }
  http-request set-var(txn.port) int(443) if { ssl_fc }
  http-request set-var(txn.port) req.hdr(host),field(2,:) if { req.hdr(host),field(2,:) -m reg '^[0-9]{1,5}$' }${setPort}
  http-request del-header '${strip}' -m reg
  http-request set-header x-request-id %[var(txn.id)]
  http-request ${trustForwarded ? "add" : "set"}-header x-forwarded-for %[src]
  http-request set-var(txn.scheme) str(http)
  http-request set-var(txn.scheme) str(https) if { ssl_fc }
  http-request set-header x-forwarded-proto %[var(txn.scheme)]${unlessTrusted("x-forwarded-proto")}
  http-request set-header x-forwarded-host %[req.hdr(host)]${unlessTrusted("x-forwarded-host")}
  http-request set-header x-forwarded-port %[var(txn.port)]${unlessTrusted("x-forwarded-port")}
  http-request set-var(txn.path) path if is_hot
  http-request set-log-level silent unless is_hot
  log-format "%[var(txn.id)]\\t%[var(txn.host)]\\t%HM\\t%[var(txn.path)]\\t%ST\\t%Ta\\t%B\\t%Ts.%ms"
  use_backend %[var(txn.target),field(1,/)] if is_hot
  default_backend node
${tlsPort === null ? "" : tlsFront(folder, tlsPort, maxConnections)}
backend node
  # The Node edge has its own deadlines, pages and limits.
  timeout server 3600s
  # What it would end, ends here too.
  http-response set-header connection close if { res.hdr(${closeHeader}) -m found }
  http-response del-header ${closeHeader}
  server node unix@${nodeSocket(folder)} maxconn ${maxConnections} pool-max-conn 256

backend lease
  option httpchk
  http-check send meth GET uri /lease ver HTTP/1.1 hdr host edge.internal
  server lease unix@${nodeSocket(folder)} check inter 500ms fall 1 rise 1

cache files
  total-max-size 64
  max-object-size 2097152
  max-age 86400
  process-vary on

# Asked for below a name of its release, and kept under it: another release is never answered from it.
backend ${staticBackend}
  timeout server 3600s
  # For each list of encodings apart: HAProxy takes the plain form to suit all who take it at all.
  http-request set-var(txn.forms) req.hdr(accept-encoding),lower,regsub([^a-z],,g)
  http-request set-var(txn.fill) str("-"),concat(,txn.forms),lower
  http-request set-header ${fillHeader} %[var(txn.target),field(2,/)]%[var(txn.fill)]
  http-request set-path /%[var(txn.target),field(2,/)]%[var(txn.fill)]%[path]
  # Parts are cut and weights are compared by the Node edge.
  acl is_choosy req.fhdr(accept-encoding) -m sub ; *
  acl is_choosy req.fhdr(accept-encoding) -m len 60:
  http-request cache-use files unless { req.hdr(range) -m found } or is_choosy
  http-response cache-store files if { res.hdr(${clientCacheHeader}) -m found }
  # The Node edge answered, and counted.
  http-response set-log-level silent
  http-response set-header connection close if { res.hdr(${closeHeader}) -m found }
  http-response del-header ${closeHeader}
  http-after-response set-header cache-control %[res.fhdr(${clientCacheHeader})] if { res.hdr(${clientCacheHeader}) -m found }
  http-after-response del-header ${clientCacheHeader}
  http-after-response del-header age
  server node unix@${nodeSocket(folder)} maxconn ${maxConnections} pool-max-conn 256
${Array.from({ length: SHARDS }, (_, index) => shard(index, folder, maxConnections)).join("")}`;
}

/**
 * One that cannot be reached is the Node edge's to answer: it finds another way, or has the page for it.
 * The headers towards an app and from it are those of the Node edge.
 */
const shard = (index: number, folder: string, maxConnections: number) => `
backend ${shardName(index)}
  balance roundrobin
  retries 2
  option redispatch 1
  retry-on conn-failure empty-response
  http-request disable-l7-retry unless { method GET HEAD OPTIONS PUT DELETE }
  http-request del-header keep-alive
  http-request del-header ^proxy- -m reg
  http-request del-header te
  use-server %[var(txn.target),field(2,/)] if TRUE
  http-response del-header keep-alive
  http-response del-header connection unless { status 101 }
  http-response del-header '^(?:proxy-(?:authenticate|connection)|x-edge-.*)$' -m reg unless { srv_name node }
  http-response replace-header set-cookie '(?i)^\\s*=?\\s*(?:__(?:host|secure)-)?edge_.*$' 'refused=; Max-Age=0' unless { srv_name node }
  http-response replace-header set-cookie '(?i)^(.*?)(?:;\\s*domain=[^;]*)+(.*)$' '\\1\\2' if { var(txn.target),field(3,/) -m str ${sharedMark} } !{ srv_name node }
  http-response del-header clear-site-data if { var(txn.target),field(3,/) -m str ${sharedMark} } { res.fhdr(clear-site-data) -m reg -i 'cookies|\\*' } !{ srv_name node }
  server node unix@${nodeSocket(folder)} maxconn ${maxConnections}
`;

/** Handshakes for names whose certificates HAProxy has are its own; the Node edge fetches what is missing. */
const tlsFront = (folder: string, port: number, maxConnections: number) => `
frontend tls
  mode tcp
  no log
  option tcpka
  bind 127.0.0.1:${port}
  tcp-request inspect-delay 30s
  tcp-request content accept if { req.ssl_hello_type 1 }
  tcp-request content reject if { req.len gt 0 } !{ req.ssl_hello_type 0 } !{ req.ssl_hello_type 1 }
  use_backend tls_hot if { req.ssl_sni,lower,map_str(${certificatesMap(folder)}) -m found } !{ req.ssl_alpn acme-tls/1 } { nbsrv(lease) gt 0 }
  default_backend tls_node

backend tls_hot
  mode tcp
  timeout server 24h
  server hot unix@${hotTlsSocket(folder)} send-proxy-v2 maxconn ${maxConnections}

backend tls_node
  mode tcp
  timeout server 24h
  server node unix@${nodeTlsSocket(folder)} send-proxy-v2 maxconn ${maxConnections}
`;
