import assert from "node:assert/strict";
import { test } from "node:test";
import { EgressPolicy } from "@platform/host-api";
import { judge, mayBeAllowed } from "./policy.ts";
import { OutboundRefusal, parseTarget, settleTarget } from "./target.ts";

const policy = (changes: Partial<EgressPolicy>) => EgressPolicy.parse({ mode: "deny-all", ...changes });
const name = (addresses: string[]) => () => Promise.resolve(addresses);
const database = (key: string) =>
  Promise.resolve(key === "database-one" ? { host: "127.0.0.1", port: 5555 } : null);

test("addresses of the machine and its network are refused whatever the policy says", () => {
  const everything = policy({
    mode: "allow-all",
    allowedCidrs: ["0.0.0.0/0", "::/0"],
    allowedDomains: ["*"],
  });
  const addresses =
    "127.0.0.1 10.1.2.3 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1 255.255.255.255 ::1 :: fc00::1 fe80::1 ff02::1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 64:ff9b::7f00:1";
  for (const address of addresses.split(" ")) {
    assert.deepEqual(
      judge(everything, "name.test", [address]),
      { allowed: false, code: "ADDRESS_NOT_ALLOWED" },
      address,
    );
  }
  for (const address of ["203.0.113.9", "172.32.0.1", "100.128.0.1", "2001:db8::1"]) {
    assert.deepEqual(judge(everything, "name.test", [address]), { allowed: true, address }, address);
  }
});

test("a wildcard covers every depth below a name but not the name, and case does not matter", () => {
  const rules = policy({ allowedDomains: ["*.example.test", "One.test"] });
  const allowed = (host: string) => judge(rules, host, ["203.0.113.9"]).allowed;
  assert.deepEqual(
    ["a.example.test", "A.b.Example.test.", "one.test", "example.test", "notexample.test", "two.test"].map(
      allowed,
    ),
    [true, true, true, false, false, false],
  );
});

test("a denied name stays denied in every mode, and is not even looked up", () => {
  const rules = { ...policy({ mode: "allow-all" }), deniedDomains: ["*.bad.test"] };
  assert.equal(judge(rules, "a.bad.test", ["203.0.113.9"]).allowed, false);
  assert.equal(mayBeAllowed(rules, "a.bad.test"), false);
  assert.equal(judge(rules, "good.test", ["203.0.113.9"]).allowed, true);
});

test("a denied range beats an allowed name, and an address is allowed by range only", () => {
  const rules = policy({
    allowedDomains: ["*"],
    deniedCidrs: ["203.0.113.0/25"],
    allowedCidrs: ["198.51.100.0/24"],
  });
  assert.equal(judge(rules, "a.test", ["203.0.113.1"]).allowed, false);
  assert.deepEqual(judge(rules, "a.test", ["203.0.113.1", "203.0.113.200"]), {
    allowed: true,
    address: "203.0.113.200",
  });
  assert.equal(judge(rules, "203.0.113.200", ["203.0.113.200"]).allowed, false);
  assert.equal(judge(rules, "198.51.100.7", ["198.51.100.7"]).allowed, true);
});

test("a name that leads inside is refused, and the checked address is the one that is dialled", async () => {
  const rules = { egress: policy({ allowedDomains: ["*.test"] }), links: [] };
  const settle = (addresses: string[]) =>
    settleTarget({ host: "a.test", port: 443 }, rules, { name: name(addresses), database });
  assert.deepEqual(await settle(["127.0.0.1", "203.0.113.5"]), { host: "203.0.113.5", port: 443 });
  await assert.rejects(settle(["169.254.169.254"]), { code: "ADDRESS_NOT_ALLOWED", status: 403 });
});

test("a name that no rule covers is not even looked up", async () => {
  const resolvers = { name: () => Promise.reject(new Error("looked up")), database };
  const rules = { egress: policy({ allowedDomains: ["b.test"] }), links: [] };
  await assert.rejects(settleTarget({ host: "a.test", port: 443 }, rules, resolvers), {
    code: "EGRESS_DENIED",
  });
});

test("a link leads to its database by exact name and port, and to nothing else", async () => {
  const links = [
    { databaseKey: "database-one", hostname: "db.test", port: 5432 },
    { databaseKey: "database-gone", hostname: "gone.test", port: 5432 },
  ];
  const rules = { egress: policy({}), links };
  const settle = (host: string, port: number) =>
    settleTarget({ host, port }, rules, { name: name(["203.0.113.5"]), database });
  assert.deepEqual(await settle("DB.test", 5432), { host: "127.0.0.1", port: 5555 });
  await assert.rejects(settle("db.test", 5433), { code: "EGRESS_DENIED" });
  await assert.rejects(
    settle("gone.test", 5432),
    (error) => error instanceof OutboundRefusal && error.status === 502,
  );
});

test("targets are read as names, addresses and bracketed addresses, each with a port", () => {
  assert.deepEqual(parseTarget("a.test:443"), { host: "a.test", port: 443 });
  assert.deepEqual(parseTarget("[2001:db8::1]:443"), { host: "2001:db8::1", port: 443 });
  for (const text of ["a.test", "a.test:0", "a.test:70000", ":443", "a:b:1", ""])
    assert.equal(parseTarget(text), null, text);
});
