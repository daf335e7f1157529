import assert from "node:assert/strict";
import { test } from "node:test";
import type { Tenant } from "../tenants/index.ts";
import { agentsFile, wantsAgentsFile } from "./agents-file.ts";

const tenant = {
  id: "t",
  name: "Clinic",
  domain: "clinic.example",
  branding: {},
  policy: {},
} as unknown as Tenant;
const row = {
  slug: "a1",
  services: [],
  cpu_count: 2,
  memory_mb: 4096,
  disk_size_mb: 10_240,
  idle_timeout_sec: 0,
};
const facts = {
  url: "https://a1.sandbox.clinic.example",
  env: ["DATABASE_URL", "HOST", "STRIPE_KEY"],
  databases: ["DATABASE_URL"],
  egress: {
    mode: "deny-all" as const,
    allowedDomains: ["registry.npmjs.org"],
    allowedCidrs: [],
    deniedCidrs: [],
  },
};

test("the file says what the place offers, under the tenant's name alone", () => {
  const text = agentsFile(tenant, row, facts);
  for (const said of [
    "Clinic sandbox",
    "/workspace",
    "4096 MB",
    facts.url,
    "`DATABASE_URL`",
    "`STRIPE_KEY`",
    "registry.npmjs.org",
    "0.0.0.0",
  ])
    assert.ok(text.includes(said), said);
  assert.doesNotMatch(text, /miosa/i);
});

test("only a new, empty workspace gets the file, unless sandbox or tenant want none", () => {
  const fresh = { metadata: {}, content: { type: "empty" as const }, ready_at: null };
  assert.equal(wantsAgentsFile(fresh, tenant), true);
  assert.equal(wantsAgentsFile({ ...fresh, ready_at: new Date() }, tenant), false);
  assert.equal(
    wantsAgentsFile({ ...fresh, content: { type: "snapshot", snapshotKey: "sn-0000000" } }, tenant),
    false,
  );
  assert.equal(wantsAgentsFile({ ...fresh, metadata: { agents_md: false } }, tenant), false);
  const without = { ...tenant, policy: { agents_md: false } } as Tenant;
  assert.equal(wantsAgentsFile(fresh, without), false);
  assert.equal(wantsAgentsFile({ ...fresh, metadata: { agents_md: true } }, without), true);
});
