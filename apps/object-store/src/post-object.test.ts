import assert from "node:assert/strict";
import { test } from "node:test";
import { GetObjectCommand, ListObjectsV2Command } from "@aws-sdk/client-s3";
import { createPresignedPost, type PresignedPostOptions } from "@aws-sdk/s3-presigned-post";
import { startTestStore } from "./testing-store.ts";

const Bucket = "one";

test("a browser's form uploads what its signed policy allows, and nothing else", async (t) => {
  const store = await startTestStore(t);
  const bucket = await store.bucket(Bucket);
  const sign = (options: Partial<PresignedPostOptions>) =>
    createPresignedPost(bucket.client, { Bucket, Key: "in/${filename}", Expires: 60, ...options });
  const send = async (
    { url, fields }: { url: string; fields: Record<string, string> },
    content: string,
    change: Record<string, string> = {},
  ) => {
    const form = new FormData();
    for (const [name, value] of Object.entries({ ...fields, ...change })) form.append(name, value);
    form.append("file", new File([content], "C:\\photos\\cat.png", { type: "image/png" }));
    const response = await fetch(url, { method: "POST", body: form, redirect: "manual" });
    const body = await response.text();
    return { status: response.status, body, code: /<Code>(\w+)</.exec(body)?.[1], headers: response.headers };
  };
  const plain = await sign({ Conditions: [["content-length-range", 2, 10]] });
  const stored = await send(plain, "hello");
  assert.equal(stored.status, 204, stored.body);
  assert.equal(stored.headers.get("location"), `${store.url}/${Bucket}/in/cat.png`);
  const got = await bucket.client.send(new GetObjectCommand({ Bucket, Key: "in/cat.png" }));
  assert.equal(await got.Body!.transformToString(), "hello");

  assert.equal((await send(plain, "hello world!")).code, "EntityTooLarge");
  assert.equal((await send(plain, "h")).code, "EntityTooSmall");
  assert.equal((await send(plain, "hello", { key: "else/where" })).code, "AccessDenied");
  assert.equal((await send(plain, "hello", { "x-amz-meta-a": "b" })).code, "AccessDenied");
  const signature = "0".repeat(64);
  assert.equal((await send(plain, "hello", { "X-Amz-Signature": signature })).code, "SignatureDoesNotMatch");
  const policy = Buffer.from(JSON.stringify({ expiration: "2999-01-01T00:00:00Z", conditions: [] }));
  const forged = { Policy: policy.toString("base64") };
  assert.equal((await send(plain, "hello", forged)).code, "SignatureDoesNotMatch");
  const { Policy: _, ...unsigned } = plain.fields;
  assert.equal((await send({ ...plain, fields: unsigned }, "hello")).code, "AccessDenied");
  const expired = await sign({ Expires: -10 });
  assert.equal((await send(expired, "hello")).code, "AccessDenied");

  const typed = await sign({
    Conditions: [
      ["starts-with", "$Content-Type", "image/"],
      { success_action_status: "201" },
      ["starts-with", "$x-amz-meta-note", ""],
    ],
    Fields: { success_action_status: "201" },
  });
  const created = await send(typed, "x", { "Content-Type": "image/png", "x-amz-meta-note": "ü" });
  assert.equal(created.status, 201, created.body);
  assert.match(created.body, /<Key>in\/cat\.png<\/Key>/);
  const wrongType = await send(typed, "x", { "Content-Type": "text/html", "x-amz-meta-note": "" });
  assert.equal(wrongType.code, "AccessDenied");
  const back = await sign({
    Conditions: [["starts-with", "$success_action_redirect", "https://app.example/"]],
  });
  const redirected = await send(back, "x", { success_action_redirect: "https://app.example/done?a=1" });
  assert.equal(redirected.status, 303, redirected.body);
  assert.match(
    redirected.headers.get("location")!,
    /^https:\/\/app\.example\/done\?a=1&bucket=one&key=in%2F/,
  );
});

test("a form that is no form, or has no file, is refused and leaves nothing", async (t) => {
  const store = await startTestStore(t);
  const { client } = await store.bucket(Bucket);
  const post = async (body: string, type: string) => {
    const response = await fetch(`${store.url}/${Bucket}`, {
      method: "POST",
      body,
      headers: { "content-type": type },
    });
    return [response.status, /<Code>(\w+)</.exec(await response.text())?.[1]];
  };
  assert.deepEqual(await post("x", "multipart/form-data"), [400, "MalformedPOSTRequest"]);
  assert.deepEqual(await post("x", "multipart/form-data; boundary=b"), [400, "MalformedPOSTRequest"]);
  const field = '--b\r\nContent-Disposition: form-data; name="key"\r\n\r\na\r\n--b--\r\n';
  assert.deepEqual(await post(field, "multipart/form-data; boundary=b"), [400, "InvalidArgument"]);
  assert.equal((await client.send(new ListObjectsV2Command({ Bucket }))).KeyCount, 0);
});
