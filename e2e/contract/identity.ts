import assert from "node:assert/strict";
import { test } from "node:test";
import type { Json } from "./api.ts";
import { assertShape, inside } from "./shapes.ts";
import type { Scene } from "./scene.ts";

export function identity(scene: Scene): void {
  const { api, ok } = scene;
  test("the base URL works with /api/v1, without it, doubled, and with a slash too many", async () => {
    const { origin } = new URL(scene.platform.apiUrl);
    for (const path of [
      "/api/v1/whoami",
      "/whoami",
      "/api/v1/api/v1/whoami",
      "/api/v1/whoami/",
      "//whoami",
    ]) {
      const response = await fetch(origin + path, {
        headers: { authorization: `Bearer ${scene.platform.apiKey}` },
      });
      assert.equal(response.status, 200, path);
      assert.ok("organization" in ((await response.json()) as Json), path);
    }
    for (const method of ["GET", "HEAD"]) {
      for (const path of ["/api/v1", "/api/v1/"])
        assert.equal(
          (await fetch(origin + path, { method, redirect: "manual" })).status,
          302,
          `${method} ${path}`,
        );
      assert.equal((await fetch(`${origin}/health`, { method })).status, 200);
    }
    ok(await api.call("HEAD", "/whoami"));
  });

  test("whoami, tenant, plan, templates and regions have the fields that clients need", async () => {
    const who = inside(ok(await api.get("/whoami")), "T") as Json;
    assertShape(who, { organization: "object", plan: "object", auth: "object" }, "whoami");
    assertShape(who["organization"], { id: "uuid", name: "string", slug: "string" }, "organization");
    const tenant = inside(ok(await api.get("/platform/tenants/current")), "T");
    assertShape(
      tenant,
      {
        id: "uuid",
        name: "string",
        slug: "string",
        plan: "string",
        plan_name: "string",
        credit_balance: "number",
        inserted_at: "time",
      },
      "tenant",
    );
    const plan = inside(ok(await api.get("/tenant/plan")), "D");
    assertShape(plan, { plan: "object", limits: "object", usage: "object" }, "plan");
    assert.ok(Array.isArray(inside(ok(await api.get("/platform/tenants")), "L")));
    const catalogue = ok(await api.get("/templates")).json as Json;
    assert.deepEqual(catalogue["data"], catalogue["templates"]);
    const rows = inside(ok(await api.get("/sandbox-templates")), "L") as Json[];
    assert.ok(rows.some((row) => row["id"] === "miosa-sandbox" && row["default"] === true));
    ok(await api.get("/sandbox-templates/miosa-sandbox"));
    assert.ok(Array.isArray((ok(await api.get("/regions")).json as Json)["regions"]));
  });
}
