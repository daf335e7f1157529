import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { putRoute, registerEdgeRoutes } from "../edges/index.ts";
import { startTestApi, type TestApi } from "../testing-api.ts";
import { assetHandlers, brandingHandlers, registerAssets } from "./index.ts";

const edgeToken = "edge-token-of-this-test";

const start = (t: TestContext) =>
  startTestApi(t, {
    handlers: (platform) => [...brandingHandlers(platform), ...assetHandlers(platform)],
    register: (app, platform) => {
      registerAssets(app, platform);
      registerEdgeRoutes(app, platform, edgeToken, {
        wake: async () => ({}),
        console: async () => undefined,
      });
    },
  });

const put = (api: TestApi, body: Record<string, unknown>, key = api.operator) =>
  api.call("PUT", "/settings/branding", { body, key });

const png = Buffer.from("89504e470d0a1a0a0000000d49484452", "hex");

function multipart(bytes: Buffer, field = "file", type = "image/png") {
  const boundary = "-----test";
  const head = `--${boundary}\r\ncontent-disposition: form-data; name="${field}"; filename="x"\r\ncontent-type: ${type}\r\n\r\n`;
  return {
    body: Buffer.concat([Buffer.from(head), bytes, Buffer.from(`\r\n--${boundary}--\r\n`)]),
    headers: { "content-type": `multipart/form-data; boundary=${boundary}` },
  };
}

test("the brand is stored, shows in both forms, and an empty text clears a value", async (t) => {
  const api = await start(t);
  const look = {
    custom_app_name: "Clinic IQ",
    brand_color_primary: "#1a73e8",
    custom_logo_url: "https://cdn.example.com/a.svg",
  };
  assert.equal((await put(api, look)).status, 200);
  const flat = (await api.call("GET", "/settings/branding")).body;
  assert.deepEqual(
    [flat["custom_app_name"], flat["brand_color_primary"], flat["support_url"], flat["branding_source"]],
    ["Clinic IQ", "#1a73e8", null, "tenant"],
  );
  assert.equal("data" in flat, false);
  const old = (await api.call("GET", "/tenant/branding")).body["branding"] as Record<string, unknown>;
  assert.deepEqual([old["product_name"], old["primary_color"]], ["Clinic IQ", "#1a73e8"]);
  await api.call("PUT", "/tenant/branding", {
    body: { branding: { product_name: "Renamed", logo_url: "" } },
  });
  const after = (await api.call("GET", "/settings/branding")).body;
  assert.deepEqual(
    [after["custom_app_name"], after["custom_logo_url"], after["brand_color_primary"]],
    ["Renamed", null, "#1a73e8"],
  );
  assert.equal((await put(api, after)).status, 200, "what was read can be sent back");
});

test("values that could harm a page are refused with the field's name", async (t) => {
  const api = await start(t);
  const bad: [string, unknown][] = [
    ["brand_color_primary", "red;background:url(//evil)"],
    ["custom_logo_url", "javascript:alert(1)"],
    ["custom_logo_url", "http://example.com/a.png"],
    ["support_url", "//evil.example"],
    ["custom_app_name", "<script>"],
    ["support_email", "nobody"],
  ];
  for (const [field, value] of bad) {
    const answer = await put(api, { [field]: value });
    assert.equal(answer.status, 422, field);
    assert.ok((answer.body["errors"] as Record<string, unknown>)[field], field);
  }
});

test("edges get the new brand at once", async (t) => {
  const api = await start(t);
  const version = await putRoute(api.platform.pool, {
    hostname: "api.clinic.example",
    tenantId: api.tenantId,
    kind: "api",
    target: { type: "control-plane" },
  });
  const poll = (applied: number, wait: number) =>
    api.app.inject({
      url: `/internal/edge/routes?edge=e1&applied=${applied}&wait_ms=${wait}`,
      headers: { authorization: `Bearer ${edgeToken}` },
    });
  assert.equal((await poll(version, 0)).statusCode, 204);
  const waiting = poll(version, 10_000);
  await put(api, { custom_app_name: "Fresh", brand_color_primary: "#abcdef" });
  const update = (await waiting).json<{
    version: number;
    brands: { name: string; colorPrimary: string }[];
  }>();
  assert.ok(update.version > version);
  assert.deepEqual(
    update.brands.map(({ name, colorPrimary }) => [name, colorPrimary]),
    [["Fresh", "#abcdef"]],
  );
});

test("an uploaded image is served to everybody as what it is", async (t) => {
  const api = await start(t);
  const made = await api.call("POST", "/settings/branding/assets/logo", multipart(png, "file", "text/html"));
  assert.equal(made.status, 201, JSON.stringify(made.body));
  const url = new URL(made.body["url"] as string);
  assert.equal(url.hostname, "api.clinic.example");
  const image = await api.call("GET", url.pathname, { key: "" });
  assert.equal(image.status, 200);
  assert.equal(image.headers["content-type"], "image/png");
  assert.equal(image.headers["x-content-type-options"], "nosniff");
  assert.match(String(image.headers["content-security-policy"]), /default-src 'none'.*sandbox/);
  assert.deepEqual(image.body["bytes"], png);
  assert.equal((await put(api, { custom_logo_url: url.href })).status, 200);
});

test("what is no image, too large or in no field named file is refused", async (t) => {
  const api = await start(t);
  const path = "/settings/branding/assets/logo";
  assert.equal((await api.call("POST", path, multipart(Buffer.from("<html><script>")))).status, 422);
  assert.equal(
    (await api.call("POST", path, multipart(Buffer.concat([png, Buffer.alloc(2 * 1024 * 1024)])))).status,
    413,
  );
  assert.equal((await api.call("POST", path, multipart(png, "other"))).status, 422);
  assert.equal((await api.call("POST", path, { body: { file: "x" } })).status, 422);
  assert.equal((await api.call("POST", "/settings/branding/assets/..%2Fx", multipart(png))).status, 422);
  assert.equal(
    (await api.call("GET", "/branding/assets/00000000-0000-4000-8000-000000000000", { key: "" })).status,
    404,
  );
});

test("the brand is the whole tenant's: a key without the scope or bound to a part cannot change it", async (t) => {
  const api = await start(t);
  const reader = await api.key({ scopes: ["projects:read"] });
  const refused = await put(api, { custom_app_name: "X" }, reader);
  assert.equal(
    (refused.body["error"] as { details: { required_scope: string } }).details.required_scope,
    "projects:write",
  );
  const { rows } = await api.platform.pool.query<{ id: string }>(
    "select id from workspaces where tenant_id = $1",
    [api.tenantId],
  );
  const bound = await api.key({ workspace_id: rows[0]!.id });
  assert.equal((await put(api, { custom_app_name: "X" }, bound)).status, 403);
  const other = await api.otherTenant();
  await put(api, { custom_app_name: "Theirs" }, other.key);
  assert.equal((await api.call("GET", "/settings/branding")).body["custom_app_name"], null);
});

test("a page of the tenant's own is kept as a browser reads it; what runs, loads or leaves is refused by name", async (t) => {
  const api = await start(t);
  const page = (html: string, key = "not_found") => put(api, { custom_pages: { [key]: html } });
  const made = await page(
    "<h1>{{title}}<p>{{ message }} <!-- note --><a href=https://clinic.example/help>Help</a>",
  );
  assert.equal(made.status, 200, JSON.stringify(made.body));
  assert.deepEqual(made.body["custom_pages"], {
    not_found: '<h1>{{title}}<p>{{ message }} <a href="https://clinic.example/help">Help</a></p></h1>',
  });
  const bad = [
    "<script>1</script>",
    "<p onclick=1>",
    "<a href=javascript:1>",
    "<a href='&#106;avascript:1'>",
    "<a href='//evil.example'>",
    "<a href='{{title}}'>",
    "<img src=https://evil.example/a.png>",
    "<img src='data:text/html;base64,AAAA'>",
    "<iframe>",
    "<form action=/x>",
    "<link rel=stylesheet href=/x>",
    "<meta http-equiv=refresh content=0>",
    "<base href=/>",
    "<svg><script>1</script></svg>",
    "<math><mi>",
    "<style>@import '/x'</style>",
    "<style>p{background:url(https://evil.example)}</style>",
    "<style>p{background:u\\72l(//evil.example)}</style>",
    "<p style='background:url(//evil.example)'>",
    "<noscript><p title='</noscript><img src=x onerror=1>'>",
    "{{secrets}}",
    "<div>".repeat(60),
    "x".repeat(25 * 1024),
  ];
  for (const html of bad) {
    const answer = await page(html);
    assert.equal(answer.status, 422, html.slice(0, 100));
    assert.ok((answer.body["errors"] as Record<string, unknown>)["custom_pages.not_found"], html);
  }
  assert.equal((await page("<p>", "nothing")).status, 422);
  assert.equal((await page("", "not_found")).status, 200);
  assert.deepEqual((await api.call("GET", "/settings/branding")).body["custom_pages"], {});
  const large = Object.fromEntries(
    ["error", "busy", "timeout", "stopped", "private", "starting", "over_quota"].map((kind) => [
      kind,
      "x".repeat(24 * 1024),
    ]),
  );
  assert.equal((await put(api, { custom_pages: large })).status, 413);
});

test("an app's look stands over its tenant's and travels to the edges with what is inside it", async (t) => {
  const api = await start(t);
  await putRoute(api.platform.pool, {
    hostname: "api.clinic.example",
    tenantId: api.tenantId,
    kind: "api",
    target: { type: "control-plane" },
  });
  const logo = await api.call("POST", "/settings/branding/assets/logo", multipart(png));
  await put(api, {
    custom_logo_url: logo.body["url"],
    custom_app_name: "Clinic",
    legal_links: [{ label: "Terms", url: "/terms" }],
  });
  const { rows } = await api.platform.pool.query<{ id: string }>(
    `insert into deployments (id, tenant_id, workspace_id, project_id, name, slug, state)
     select gen_random_uuid(), w.tenant_id, w.id, p.id, 'shop', 'shop', 'running' from workspaces w join projects p on p.workspace_id = w.id
     where w.tenant_id = $1 limit 1 returning id`,
    [api.tenantId],
  );
  const path = `/settings/branding/apps/${rows[0]!.id}`;
  const set = await api.call("PUT", path, {
    body: { custom_app_name: "Shop", custom_pages: { error: "<p>Oh</p>" } },
  });
  assert.equal(set.status, 200, JSON.stringify(set.body));
  assert.equal((await api.call("GET", path)).body["custom_app_name"], "Shop");
  const update = async () =>
    (
      await api.app.inject({
        url: "/internal/edge/routes?edge=e1&applied=0&wait_ms=0",
        headers: { authorization: `Bearer ${edgeToken}` },
      })
    ).json<{ brands: Record<string, unknown>[] }>().brands;
  const own = (await update()).find((brand) => brand["appId"] === rows[0]!.id)!;
  assert.equal(own["name"], "Shop");
  assert.equal(own["logo"], `data:image/png;base64,${png.toString("base64")}`);
  assert.deepEqual(own["legalLinks"], [{ label: "Terms", url: "/terms" }]);
  assert.deepEqual(own["pages"], { error: "<p>Oh</p>" });
  const other = await api.otherTenant();
  assert.equal((await api.call("GET", path, { key: other.key })).status, 404);
  assert.equal((await api.call("PUT", path, { key: other.key, body: { custom_app_name: "X" } })).status, 404);
  assert.equal((await api.call("DELETE", path)).status, 200);
  assert.equal((await update()).filter((brand) => brand["appId"] !== null).length, 0);
});
