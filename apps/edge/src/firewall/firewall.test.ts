import assert from "node:assert/strict";
import type { IncomingMessage } from "node:http";
import { after, before, test } from "node:test";
import type { RouteTarget } from "@platform/edge-api";
import { brand } from "../testing/control-plane.ts";
import { Rig } from "../testing/rig.ts";

let rig: Rig;
/** What the app sends beside its body. */
let answer: [string, string][] = [];
let seen: IncomingMessage;
let target: RouteTarget;
before(async () => {
  rig = await Rig.start();
  rig.controlPlane.brands = [{ ...brand, reservedCookies: ["clinic_session", "auth_*"] }];
  const app = await rig.app((req, res) => {
    seen = req;
    res.writeHead(200, answer as unknown as string[]).end();
  });
  ({ target } = app);
  await rig.publish({ "shop.clinic.test": target, "www.customer.test": target });
});
after(() => rig.stop());

const setBy = async (host: string, ...cookies: string[]) => {
  answer = cookies.map((cookie) => ["Set-Cookie", cookie]);
  return (await rig.fetch(host)).headers["set-cookie"] ?? [];
};
const cookieSeen = async (host: string, cookie: string | string[]) => {
  answer = [];
  await rig.fetch(host, "/", { headers: { cookie } });
  return seen.headers.cookie;
};

test("a cookie for the parent domain stays with the app's own host name", async () => {
  assert.deepEqual(
    await setBy(
      "shop.clinic.test",
      "a=1; Domain=clinic.test; Path=/; HttpOnly",
      "b=1; domain=.Clinic.Test",
      "c=1;Domain = test",
      "d=1; Domain=shop.clinic.test; Secure",
      "e=1; Domain=shop.clinic.test; Domain=clinic.test",
      "f=1; Domain=other.clinic.test",
      "g=1; Expires=Wed, 09 Jun 2032 10:18:14 GMT",
    ),
    [
      "a=1; Path=/; HttpOnly",
      "b=1",
      "c=1",
      "d=1; Domain=shop.clinic.test; Secure",
      "e=1; Domain=shop.clinic.test",
      "f=1",
      "g=1; Expires=Wed, 09 Jun 2032 10:18:14 GMT",
    ],
  );
});

test("an app on the customer's own domain sets the cookies of that domain", async () => {
  assert.deepEqual(await setBy("www.customer.test", "a=1; Domain=customer.test"), [
    "a=1; Domain=customer.test",
  ]);
});

test("an app sets no cookie of the platform's or the tenant's", async () => {
  const cookies = [
    "edge_preview=x",
    "EDGE_preview=x",
    "__Host-edge_preview=x; Path=/; Secure",
    "__host-Edge_preview=x",
    "=edge_preview=x",
    "edge_preview",
    "clinic_session=x",
    "auth_token=x",
    "mine=1",
  ];
  assert.deepEqual(await setBy("shop.clinic.test", ...cookies), ["mine=1"]);
  assert.deepEqual(await setBy("www.customer.test", "edge_preview=x", "auth_token=x"), ["auth_token=x"]);
});

test("an app sees no cookie of the platform's or the tenant's", async () => {
  const cookie = "a=1; edge_preview=t; __Host-edge_preview=t; clinic_session=s; auth_x=1; author=me";
  assert.equal(await cookieSeen("shop.clinic.test", cookie), "a=1; author=me");
  assert.equal(await cookieSeen("shop.clinic.test", "edge_preview=t"), undefined);
  assert.equal(await cookieSeen("www.customer.test", "clinic_session=s; edge_preview=t"), "clinic_session=s");
});

test("a name that comes twice with two values, one perhaps planted by a neighbour, reaches no app", async () => {
  assert.equal(
    await cookieSeen("shop.clinic.test", "session=planted; theme=dark; session=mine"),
    "theme=dark",
  );
  assert.equal(await cookieSeen("shop.clinic.test", ["session=planted", "session=mine"]), undefined);
  assert.equal(await cookieSeen("shop.clinic.test", "a=1; a=1"), "a=1; a=1");
  assert.equal(await cookieSeen("www.customer.test", "a=1; a=2"), "a=1; a=2");
});

test("an app cannot clear the cookies of its tenant's whole domain", async () => {
  const clearedBy = async (value: string) => {
    answer = [["Clear-Site-Data", value]];
    return (await rig.fetch("shop.clinic.test")).headers["clear-site-data"];
  };
  assert.equal(await clearedBy('"cache", "cookies", "storage"'), '"cache", "storage"');
  assert.equal(await clearedBy('"*"'), undefined);
});

test("an app cannot pass its answer off as a page of the edge", async () => {
  answer = [["X-Edge-Page", "starting"]];
  assert.equal((await rig.fetch("shop.clinic.test")).headers["x-edge-page"], undefined);
});

test("who a client is cannot be said from outside, under whatever name apps believe", async () => {
  answer = [];
  const forged = {
    "x-forwarded-for": "6.6.6.6",
    x_forwarded_for: "6.6.6.6",
    "X-Forwarded_For": "6.6.6.6",
    "x-forwarded-user": "root",
    "x-forwarded-prefix": "/admin",
    "x-forwarded-ssl": "on",
    forwarded: "for=6.6.6.6",
    "x-real-ip": "6.6.6.6",
    "x-client-ip": "6.6.6.6",
    "true-client-ip": "6.6.6.6",
    "x-original-url": "/admin",
    "x-rewrite-url": "/admin",
    "x-auth-request-user": "root",
    "remote-user": "root",
    "x-edge-page": "1",
    "x-public-door": "1",
    "x-request-id": "kept-1",
    authorization: "Bearer app",
    "x-api-key": "app",
  };
  await rig.fetch("shop.clinic.test", "/", { headers: forged });
  const own = [
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-request-id",
  ];
  const left = Object.keys(seen.headers).filter((name) => !["host", "connection"].includes(name));
  assert.deepEqual(left.sort(), [...own, "authorization", "x-api-key"].sort());
  assert.equal(seen.headers["x-forwarded-for"], "127.0.0.1");
});
