import assert from "node:assert/strict";
import { test } from "node:test";
import { isUnstorable, parseJson } from "./json-body.ts";

test("a body nested deeper than any walk may go is refused, however it is nested", () => {
  for (const [open, close] of [
    ["[", "]"],
    ['{"a":', "}"],
  ] as const) {
    const nested = (depth: number) => `${open.repeat(depth)}1${close.repeat(depth)}`;
    assert.notEqual(parseJson(nested(100)), undefined);
    for (const depth of [101, 200_000])
      assert.throws(() => parseJson(nested(depth)), { code: "INVALID_JSON", status: 400 });
  }
});

test("an error over an id of ours is not blamed on the request, one over half a character is", () => {
  assert.equal(isUnstorable("22P02", { name: "fine", tags: ["é", "👍"] }), false);
  assert.equal(isUnstorable("22P02", undefined), false);
  assert.equal(isUnstorable("22P02", { tags: [{ a: "\ud83d" }] }), true);
  assert.equal(isUnstorable("22P02", { "\udc4d": 1 }), true);
  assert.equal(isUnstorable("22021", {}), true);
  assert.equal(isUnstorable("42703", { name: "\ud83d" }), false);
});

test("what is not JSON is refused without being quoted", () => {
  assert.throws(
    () => parseJson('{"secret": hunter2'),
    (error: Error) => !error.message.includes("hunter2"),
  );
});
