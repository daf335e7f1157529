import { edgePageHeader } from "@platform/edge-api";

/** What the platform or a proxy in front of it says about a client, under all names that apps believe. */
const exact = new Set([
  ...["x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "client-ip", "forwarded"],
  ...["x-original-url", "x-rewrite-url", "x-original-host", "x-host", "x-request-id", "x-public-door"],
  ...["x-remote-user", "remote-user", "x-authenticated-user", "x-webauth-user"],
]);
const families = ["x-forwarded-", "x-edge-", "x-original-forwarded-", "x-auth-request-"];

/**
 * Whether a header says who or what a client is, which only the platform can. Gateways of some languages
 * (CGI, WSGI) take an underscore for a hyphen, so `X_Forwarded_For` is the same.
 *
 * @param name lower case
 */
export function isIdentityHeader(name: string): boolean {
  const plain = name.replaceAll("_", "-");
  return exact.has(plain) || families.some((family) => plain.startsWith(family));
}

/** What only the edge says in its answers. */
export const isEdgeAnswerHeader = (name: string): boolean =>
  name === edgePageHeader || name.startsWith("x-edge-");
