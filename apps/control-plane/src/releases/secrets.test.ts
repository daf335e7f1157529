import assert from "node:assert/strict";
import { test } from "node:test";
import { knownSecrets } from "./secrets.ts";

test("values that are settings, public by name or short are no secrets", () => {
  assert.deepEqual(
    knownSecrets({
      ...{
        NODE_ENV: "production",
        PORT: "30001234",
        PUBLIC_URL: "https://clinic.example/app",
        PIN_KEY: "1234567",
      },
      ...{ VITE_TOKEN: "pk_live_0123456789", MAIL_FROM: "desk@clinic.example", DATA_DIR: "/var/lib/clinic" },
      ...{ HOST_LIST: "db.clinic.example:5432" },
    }),
    [],
  );
});

test("keys, tokens and the password inside a URL are secrets, also when they are plain words", () => {
  const url = "postgres://app:s3cr3t%2Fpart@127.0.0.1:5432/app";
  const found = knownSecrets({ DATABASE_URL: url, API_KEY: "correcthorse", COOKIE: "kX9-aaa_bbb.c!" });
  assert.deepEqual(
    found.map(({ value }) => value).sort(),
    ["correcthorse", "kX9-aaa_bbb.c!", url, "s3cr3t%2Fpart", "s3cr3t/part"].sort(),
  );
});

test("of a very long value a part is sent, so that many of them fit one call", () => {
  const [one] = knownSecrets({ PRIVATE_KEY: "ab".repeat(50_000) });
  assert.equal(one?.value.length, 4096);
});
