import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import { createPool, queryOne } from "@platform/postgres";
import { startPrograms } from "../testing-programs.ts";
import { checkKey, keyOf } from "./object-key.ts";

test("a key is decoded once, and one that climbs is refused", () => {
  assert.equal(keyOf("/api/v1/storage/buckets/x/objects/a/b%2Fc%2520d?x=1"), "a/b/c%20d");
  for (const bad of ["a/%2e%2e/b", "..", "%2e%2e%2fb", "a%00b", "%ff", "", "x".repeat(1025)])
    assert.throws(() => keyOf(`/api/v1/storage/buckets/x/objects/${bad}`), { code: "INVALID_PATH" }, bad);
  assert.equal(checkKey("a/..b/c"), "a/..b/c");
});

test("buckets from creation to deletion, through the API and through presigned URLs", async (t) => {
  const platform = await startPrograms(t);
  const { api } = platform;
  const created = await api("POST", "/storage/buckets", { name: "uploads", quota_bytes: 5_000_000 });
  assert.equal(created.status, 201, created.text);
  const bucket = created.at<Record<string, unknown>>("data");
  const base = `/storage/buckets/${bucket["id"]}`;

  await t.test("a new bucket is private and empty, its probe is gone, and its name is taken", async () => {
    assert.equal(bucket["visibility"], "private");
    assert.equal(bucket["object_count"], 0);
    assert.equal(bucket["used_bytes"], 0);
    const again = await api("POST", "/storage/buckets", { name: "uploads" });
    assert.equal(again.at("error", "code"), "NAME_TAKEN");
    const bad = await api("POST", "/storage/buckets", { name: "No Good" });
    assert.equal(bad.status, 422);
    assert.ok(bad.at("errors", "name", 0));
  });

  await t.test("the same Idempotency-Key gives the same bucket", async () => {
    const make = () =>
      api("POST", "/storage/buckets", { name: "once", public: true }, { "idempotency-key": "b1" });
    const [one, two] = [await make(), await make()];
    assert.equal(one.at("data", "id"), two.at("data", "id"));
    assert.equal(one.at("data", "visibility"), "public");
  });

  await t.test("bytes of any content type are stored as they arrive", async () => {
    const bytes = randomBytes(300_000);
    for (const [path, type] of [
      ["raw/a.bin", "application/octet-stream"],
      ["raw%2Fb.json", "application/json"],
      ["raw/c.txt", "text/plain"],
    ]) {
      const stored = await api("PUT", `${base}/objects/${path}`, bytes, { "content-type": type! });
      assert.equal(stored.status, 200, stored.text);
      assert.equal(stored.at("data", "size_bytes"), bytes.length);
    }
    const found = await platform.fetch(
      `http://api.${platform.domain}:${platform.edge.port}/api/v1${base}/objects/raw/b.json`,
      { headers: { authorization: `Bearer ${platform.key}` } },
    );
    assert.ok(found.bytes.equals(bytes));
    assert.equal(found.headers["content-type"], "application/json");
    assert.ok(found.headers.etag);
    const now = (await api("GET", base)).at<Record<string, unknown>>("data");
    assert.equal(now["object_count"], 3);
    assert.equal(now["used_bytes"], 900_000);
    assert.equal((await api("PUT", `${base}/objects/a/%2e%2e/b`, "x")).status, 422);
    assert.equal((await api("GET", `${base}/objects/absent`)).status, 404);
  });

  await t.test("objects are listed by prefix, page by page", async () => {
    const first = await api("GET", `${base}/objects?prefix=raw/&max_keys=2`);
    assert.deepEqual(
      first.at<{ key: string }[]>("data").map((one) => one.key),
      ["raw/a.bin", "raw/b.json"],
    );
    const rest = await api("GET", `${base}/objects?prefix=raw/&cursor=${first.at("cursor")}`);
    assert.equal(rest.at<unknown[]>("data").length, 1);
    assert.equal(rest.at("cursor"), null);
  });

  await t.test("a presigned PUT, then a presigned GET, without any credential", async () => {
    const put = await api("POST", `${base}/presign`, {
      key: "in/käse & co.png",
      method: "put",
      content_type: "image/png",
    });
    const { url, headers } = put.at<{ url: string; headers: Record<string, string> }>("data");
    assert.match(url, new RegExp(`^http://s3\\.clinic\\.localhost:${platform.edge.port}/`));
    const bytes = randomBytes(100_000);
    assert.equal((await platform.fetch(url, { method: "PUT", body: bytes })).status, 403);
    const stored = await platform.fetch(url, { method: "PUT", body: bytes, headers });
    assert.equal(stored.status, 200, stored.text);
    const get = await api("POST", `${base}/presign`, {
      key: "in/käse & co.png",
      operation: "get",
      expires_in_sec: 60,
    });
    assert.ok(Date.parse(get.at("data", "expires_at")) - Date.now() <= 60_000);
    const found = await platform.fetch(get.at("data", "url"));
    assert.ok(found.bytes.equals(bytes));
    assert.equal(found.headers["content-type"], "image/png");
    assert.equal((await platform.fetch(get.at("data", "url"), { method: "PUT", body: "x" })).status, 403);
    const unsigned = get.at("data", "url").split("?")[0]!;
    assert.equal((await platform.fetch(unsigned)).status, 403);
    const probe = await platform.fetch(
      `http://s3.clinic.localhost:${platform.edge.port}/internal/buckets/${bucket["id"]}`,
      { headers: { authorization: `Bearer ${"t".repeat(40)}` } },
    );
    assert.match(probe.text, /<Code>/, "the store's inner address is no client's, whatever it sends");
  });

  await t.test("a public bucket is read without credentials, also under a host name of its own", async () => {
    const open = (await api("GET", "/storage/buckets/once")).at<Record<string, string>>("data");
    await api("PUT", `/storage/buckets/once/objects/page.html`, "<p>hi", { "content-type": "text/html" });
    const host = `s3.${platform.domain}:${platform.edge.port}`;
    for (const url of [
      `http://${host}/${open["bucket"]}/page.html`,
      `http://${open["bucket"]}.${host}/page.html`,
    ])
      assert.equal((await platform.fetch(url)).text, "<p>hi");
  });

  await t.test("credentials are for one bucket, at the tenant's own endpoint", async () => {
    const made = await api("POST", `${base}/credentials`, { name: "app", access: "read" });
    assert.equal(made.status, 201, made.text);
    assert.equal(made.at("data", "endpoint"), `http://s3.${platform.domain}:${platform.edge.port}`);
    assert.equal(made.at("data", "bucket"), bucket["bucket"]);
    assert.ok(made.at("data", "secret_access_key").length >= 30);
    const path = `${base}/credentials/${made.at("data", "access_key_id")}`;
    assert.equal((await api("DELETE", path)).status, 200);
  });

  await t.test("a key that is held to a prefix is listed without its secret", async () => {
    const made = await api("POST", `${base}/credentials`, { prefix: "in/", actions: ["put"] });
    assert.equal(made.at("data", "prefix"), "in/", made.text);
    const listed = (await api("GET", `${base}/credentials`)).at<Record<string, unknown>[]>("data");
    const found = listed.find((one) => one["id"] === made.at("data", "access_key_id"))!;
    assert.deepEqual([found["actions"], found["prefix"]], [["put"], "in/"]);
    assert.equal(JSON.stringify(listed).includes(made.at("data", "secret_access_key")), false);
    const bad = await api("POST", `${base}/credentials`, { actions: ["everything"] });
    assert.equal(bad.status, 422, bad.text);
  });

  await t.test(
    "a browser uploads by a form that was signed for one folder, one type and one size",
    async () => {
      const signed = await api("POST", `${base}/presign-post`, {
        key: "form/${filename}",
        content_type: "image/",
        max_bytes: 1000,
      });
      const { url, fields } = signed.at<{ url: string; fields: Record<string, string> }>("data");
      assert.match(url, new RegExp(`^http://s3\\.clinic\\.localhost:${platform.edge.port}/`));
      const send = async (type: string, bytes: number) => {
        const form = new FormData();
        for (const [name, value] of Object.entries({ ...fields, "content-type": type }))
          form.append(name, value);
        form.append("file", new File([Buffer.alloc(bytes)], "a.png"));
        const encoded = new Response(form);
        return platform.fetch(url, {
          method: "POST",
          body: Buffer.from(await encoded.arrayBuffer()),
          headers: { "content-type": encoded.headers.get("content-type")! },
        });
      };
      assert.equal((await send("image/png", 1000)).status, 204);
      assert.equal((await send("text/html", 10)).status, 403);
      assert.equal((await send("image/png", 1001)).status, 400);
      assert.equal((await api("DELETE", `${base}/objects/form/a.png`)).status, 200);
    },
  );

  await t.test(
    "a bucket's quota, reach, versions, origins and expiry are changed and read back",
    async () => {
      const made = await api("POST", "/storage/buckets", { name: "settings" });
      const path = `/storage/buckets/${made.at("data", "id")}`;
      const before = (await api("GET", path)).at<Record<string, unknown>>("data");
      assert.deepEqual(
        [before["versioning"], before["cors_origins"], before["expire_after_days"]],
        ["off", [], null],
      );
      const change = {
        visibility: "public",
        quota_bytes: 1000,
        versioning: "enabled",
        cors_origins: ["https://app.example"],
        expire_after_days: 30,
      };
      const changed = await api("PATCH", path, change);
      assert.equal(changed.status, 200, changed.text);
      const after = (await api("GET", path)).at<Record<string, unknown>>("data");
      for (const [name, value] of Object.entries(change)) assert.deepEqual(after[name], value, name);
      const object = `http://s3.${platform.domain}:${platform.edge.port}/${after["bucket"]}/a`;
      await api("PUT", `${path}/objects/a`, "x");
      const seen = await platform.fetch(object, { headers: { origin: "https://app.example" } });
      assert.equal(seen.headers["access-control-allow-origin"], "https://app.example");
      await api("PATCH", path, {
        visibility: "private",
        cors_origins: [],
        quota_bytes: -1,
        expire_after_days: 0,
      });
      assert.equal((await platform.fetch(object)).status, 403);
      const left = (await api("GET", path)).at<Record<string, unknown>>("data");
      assert.deepEqual(
        [left["quota_bytes"], left["versioning"], left["cors_origins"]],
        [null, "enabled", []],
      );
      assert.equal(left["expire_after_days"], null);
      const wrong = await api("PATCH", path, { cors_origins: ["https://app.example/path"] });
      assert.equal(wrong.status, 422, wrong.text);
      assert.equal((await api("DELETE", `${path}?force=true`)).status, 200);
    },
  );

  await t.test("what is over the quota is refused and changes nothing", async () => {
    const over = await api("PUT", `${base}/objects/big`, Buffer.alloc(5_000_001));
    assert.equal(over.at("error", "code"), "QUOTA_EXCEEDED", over.text);
    assert.equal((await api("GET", `${base}/objects/big`)).status, 404);
  });

  await t.test("a bucket that holds objects goes only by force", async () => {
    const kept = await api("DELETE", base);
    assert.equal(kept.status, 409);
    assert.equal(kept.at("error", "code"), "BUCKET_NOT_EMPTY");
    assert.equal(kept.at("error", "details", "object_count"), 4);
    assert.equal((await api("DELETE", `${base}?force=true`)).status, 200);
    assert.equal((await api("GET", base)).status, 404);
    const pool = createPool(platform.databaseUrl);
    t.after(() => pool.end());
    const left = await queryOne(pool, "select id from object_store.buckets where id = $1", [bucket["id"]]);
    assert.equal(left, null);
  });

  await t.test("without the object store every call says so and how to go on", async () => {
    await platform.store.kill();
    const refused = await api("POST", "/storage/buckets", { name: "later" }, { "idempotency-key": "later" });
    assert.equal(refused.status, 503);
    assert.equal(refused.at("error", "code"), "STORAGE_UNAVAILABLE");
    assert.ok(refused.headers["retry-after"]);
    assert.equal((await api("GET", "/storage/buckets")).status, 503);
    await platform.startStore();
    const made = await api("POST", "/storage/buckets", { name: "later" }, { "idempotency-key": "later" });
    assert.equal(made.status, 201, made.text);
  });
});
