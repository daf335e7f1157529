import { z } from "zod";
import { Certificate } from "./certificates.ts";
import { External, ListQuery, NoBody } from "./fields.ts";
import { defineRoute } from "./route.ts";

const HostName = z.string().trim().min(1).max(1024);
const RedirectPolicy = z
  .enum(["none", "www_to_apex", "apex_to_www"])
  .describe("Which of NAME and www.NAME redirects to the other");

const named = {
  hostname: HostName.optional(),
  domain: HostName.optional().describe("Same as hostname"),
  fqdn: HostName.optional().describe("Same as hostname"),
  redirect_policy: RedirectPolicy.optional(),
};

export const ClaimDomain = z
  .object({
    ...named,
    deployment_id: z.string().optional(),
    resource_type: z.string().optional().describe("deployment"),
    resource_id: z.string().optional(),
  })
  .extend(External.shape);

export const AssignDomain = z.object({
  deployment_id: z.string().min(1),
  redirect_policy: RedirectPolicy.optional(),
});

export const Domain = z.looseObject({
  id: z.string(),
  hostname: z.string(),
  fqdn: z.string(),
  domain: z.string(),
  status: z.string(),
  state: z
    .enum(["pending", "failed", "verified", "active"])
    .describe("active: verified, and routed to its deployment"),
  verified: z.boolean(),
  dns_records: z.array(
    z.looseObject({
      type: z.enum(["CNAME", "TXT"]),
      name: z.string(),
      value: z.string(),
      purpose: z
        .enum(["routing", "ownership"])
        .describe("routing proves the name as well; one of the two is enough"),
      found: z.array(z.string()).describe("At the last look"),
      verdict: z.enum(["ok", "missing", "differs", "unreachable", "unchecked"]),
    }),
  ),
  dns_state: z.enum(["unchecked", "pending", "ok", "moved_away"]),
  next_check_at: z.string().describe("DNS is looked at by itself then"),
  certificate: Certificate.nullable(),
  verification_target: z.string(),
  verification_token: z.string(),
  deployment_id: z.string().nullable(),
  redirect_policy: RedirectPolicy,
  verified_at: z.string().nullable(),
});

const tag = "Domains";
const read = { tag, envelope: "data", scope: "domains:read", response: Domain } as const;
const write = { tag, envelope: "data", scope: "domains:write" } as const;
const list = { tag, envelope: "list", scope: "domains:read", query: ListQuery } as const;
const claim = {
  ...write,
  status: 201,
  body: ClaimDomain,
  response: Domain,
  idempotent: true,
  problems: ["DOMAIN_TAKEN", "CONFLICT"],
} as const;
const verify = {
  ...write,
  body: NoBody,
  response: Domain,
  problems: ["CNAME_MISMATCH", "DNS_LOOKUP_FAILED"],
} as const;
const ofDeployment = "/deployments/:id/domains";
export const domainRoutes = {
  list: defineRoute({
    id: "listDomains",
    method: "GET",
    path: "/domains",
    summary: "List custom domains",
    ...list,
  }),
  claim: defineRoute({
    id: "claimDomain",
    method: "POST",
    path: "/domains",
    summary: "Claim a host name; verify it when its DNS record is in place",
    ...claim,
  }),
  get: defineRoute({
    id: "getDomain",
    method: "GET",
    path: "/domains/:hostname",
    summary: "A domain by host name or id",
    ...read,
  }),
  remove: defineRoute({
    id: "deleteDomain",
    method: "DELETE",
    path: "/domains/:hostname",
    summary: "Give a domain up; it is served no longer",
    ...write,
  }),
  verify: defineRoute({
    id: "verifyDomain",
    method: "POST",
    path: "/domains/:hostname/verify",
    summary: "Look at DNS now, and route the name when the record is right",
    ...verify,
  }),
  assign: defineRoute({
    id: "assignDomain",
    method: "POST",
    path: "/domains/:hostname/assign",
    summary: "Point a domain at a deployment",
    ...write,
    body: AssignDomain,
    response: Domain,
    problems: ["CONFLICT"],
  }),
  detach: defineRoute({
    id: "detachDomain",
    method: "POST",
    path: "/domains/:hostname/detach",
    summary: "Take a domain off its deployment; the claim stays",
    ...write,
    body: NoBody,
    response: Domain,
  }),
  listOfDeployment: defineRoute({
    id: "listDeploymentDomains",
    method: "GET",
    path: ofDeployment,
    summary: "Domains of a deployment",
    ...list,
  }),
  claimForDeployment: defineRoute({
    id: "claimDeploymentDomain",
    method: "POST",
    path: ofDeployment,
    summary: "Claim a host name for a deployment",
    ...claim,
  }),
  getOfDeployment: defineRoute({
    id: "getDeploymentDomain",
    method: "GET",
    path: `${ofDeployment}/:did`,
    summary: "A domain of a deployment",
    ...read,
  }),
  verifyOfDeployment: defineRoute({
    id: "verifyDeploymentDomain",
    method: "POST",
    path: `${ofDeployment}/:did/verify`,
    summary: "Look at DNS now, and route the name when the record is right",
    ...verify,
  }),
  removeOfDeployment: defineRoute({
    id: "deleteDeploymentDomain",
    method: "DELETE",
    path: `${ofDeployment}/:did`,
    summary: "Give a domain up",
    ...write,
  }),
  listCustom: defineRoute({
    id: "listCustomDomains",
    method: "GET",
    path: "/custom-domains",
    summary: "List custom domains (older form)",
    ...list,
  }),
  claimCustom: defineRoute({
    id: "claimCustomDomain",
    method: "POST",
    path: "/custom-domains",
    summary: "Claim a host name (older form)",
    ...claim,
  }),
  removeCustom: defineRoute({
    id: "deleteCustomDomain",
    method: "DELETE",
    path: "/custom-domains/:hostname",
    summary: "Give a domain up (older form)",
    ...write,
  }),
} as const;
