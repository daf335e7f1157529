import assert from "node:assert/strict";
import { test } from "node:test";
import { HostSlug, SandboxSlug } from "./fields.ts";

test("a slug never takes a host name that the platform itself serves", () => {
  for (const slug of ["api", "www", "s3", "sandbox"]) {
    const refused = HostSlug.safeParse(slug);
    assert.match(
      refused.error?.issues[0]?.message ?? "",
      new RegExp(`"${slug}" is a name of the platform's own`),
    );
  }
  assert.equal(HostSlug.parse("clinic-api"), "clinic-api");
});

test("a sandbox's slug never reads like the address of another one's port", () => {
  assert.match(SandboxSlug.safeParse("3000-abc").error?.issues[0]?.message ?? "", /address of a port/);
  assert.equal(SandboxSlug.parse("3000abc"), "3000abc");
  assert.equal(HostSlug.parse("2024-report"), "2024-report");
});
