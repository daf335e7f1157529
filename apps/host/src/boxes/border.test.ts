import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { test, type TestContext } from "node:test";
import { guestOf, spec, startTestHost, whyNoBoxes } from "../testing.ts";

const skip = whyNoBoxes() ?? false;
/** Of a documentation range, so that it is neither private nor anybody's. */
const outsideAddress = "203.0.113.77";

/** A server that stands for the internet: a public address on this machine's loopback interface. */
async function outside(t: TestContext): Promise<number | null> {
  if (process.getuid?.() !== 0) return null;
  try {
    execFileSync("ip", ["address", "add", `${outsideAddress}/32`, "dev", "lo"], { stdio: "pipe" });
  } catch {
    return null; // No ip command, or not allowed.
  }
  t.after(() => execFileSync("ip", ["address", "del", `${outsideAddress}/32`, "dev", "lo"]));
  return serve(t, outsideAddress);
}

async function serve(t: TestContext, address: string): Promise<number> {
  const server = createServer((request, response) =>
    response.end(`outside ${request.method} ${request.url}`),
  );
  await new Promise<void>((done) => server.listen(0, address, done));
  t.after(() => server.close());
  return (server.address() as AddressInfo).port;
}

test(
  "a box sees nothing of the machine but its system, and nothing of the daemon's environment",
  { skip },
  async (t) => {
    const host = await startTestHost(t);
    await host.client.putBox("box-blind", spec({ env: { GIVEN: "yes" } }));
    const guest = guestOf(t, host, "box-blind");
    const run = async (command: string) => (await guest.exec(command)).stdout.trim();
    assert.equal(
      await run("ls /home /opt /srv /root /work 2>/dev/null | tr '\\n' ' '"),
      "/home: user  /opt: agent",
    );
    assert.equal(await run("cat /etc/shadow 2>&1 | tail -c 26"), "No such file or directory");
    assert.equal(await run("cut -d: -f1 /etc/passwd | tr '\\n' ' '"), "root user nobody");
    assert.equal(await run("ls /sys/class 2>/dev/null; ls /proc/1/root/work 2>/dev/null"), "");
    assert.equal(await run("hostname"), "app");
    assert.equal(await run("cat /proc/*/environ | tr '\\0' '\\n' | grep -c -e DAEMON -e HOST_"), "0");
    assert.equal(await run("cat /proc/1/cmdline | tr '\\0' '\\n' | grep -c host-test"), "0");
    assert.equal(await run("env | grep -c ^GIVEN=yes"), "1");
    assert.equal(await run("env | grep -c -i -e bwrap -e platform -e miosa"), "0");
    assert.equal(
      await run("touch /x /usr/x /etc/x /opt/agent/x /usr/local/x 2>/dev/null; ls -d /x /etc/x 2>/dev/null"),
      "",
    );
    const processes = Number(await run("ls -d /proc/[0-9]* | wc -l"));
    assert.ok(processes < 10, `${processes} processes are visible`);
    assert.equal(
      await run("ls /sys/class/net 2>/dev/null; tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' \\n'"),
      "lo",
    );
  },
);

test("system calls that only attacks need are refused in a box", { skip }, async (t) => {
  const host = await startTestHost(t);
  await host.client.putBox("box-calls", spec());
  const guest = guestOf(t, host, "box-calls");
  const attempt = async (call: string) =>
    (await guest.exec(`perl -e '$!=0; syscall(${call}); print 0+$!'`)).stdout;
  if (process.arch !== "x64") return t.skip("numbers below are those of x64");
  const notPermitted = "1";
  assert.equal(await attempt("250,0,-3,0"), notPermitted, "keyctl");
  assert.equal(await attempt("272,0x10000000"), notPermitted, "unshare a user namespace");
  assert.equal(await attempt("56,0x10000011,0,0,0,0"), notPermitted, "clone a user namespace");
  assert.equal(await attempt("435,0,0"), "38", "clone3");
  assert.equal(await attempt("16,0,0x5412,0"), notPermitted, "push input into a terminal");
  assert.equal(await attempt("321,0,0,0"), notPermitted, "bpf");
  assert.equal(await attempt("425,1,0"), notPermitted, "io_uring");
  const status = await guest.exec("grep -E 'Seccomp:|CapEff|NoNewPrivs' /proc/self/status | tr -d '\\t\\n'");
  assert.equal(status.stdout, "CapEff:0000000000000000NoNewPrivs:1Seccomp:2");
});

test(
  "a box reaches neither the machine's loopback, nor another box, nor metadata addresses",
  { skip },
  async (t) => {
    const host = await startTestHost(t);
    const port = await serve(t, "127.0.0.1");
    await host.client.putBox(
      "box-server",
      spec({
        services: [
          {
            name: "web",
            command: 'node -e \'require("http").createServer((q,s)=>s.end()).listen(8123,"0.0.0.0")\'',
          },
        ],
      }),
    );
    await guestOf(t, host, "box-server").probe(8123);
    await host.client.putBox("box-walled", spec({ egress: { mode: "allow-all" } }));
    const guest = guestOf(t, host, "box-walled");
    const direct = async (url: string) =>
      (await guest.exec(`curl -s --noproxy '*' -m 5 ${url}; echo $?`)).stdout.trim();
    for (const url of [`http://127.0.0.1:${port}/`, "http://127.0.0.1:8123/", "http://169.254.169.254/"]) {
      assert.equal(await direct(url), "7", `${url} refuses`);
    }
    for (const target of [
      `127.0.0.1:${port}`,
      "169.254.169.254:80",
      "[::ffff:127.0.0.1]:80",
      "10.0.0.1:80",
      "[::1]:80",
    ]) {
      const asked = `curl -s -x http://127.0.0.1:3128 --noproxy '' -m 5 http://${target}/`;
      assert.match((await guest.exec(asked)).stdout, /ADDRESS_NOT_ALLOWED/, target);
    }
  },
);

test(
  "the way out follows the policy and its changes, for tunnels and for plain requests",
  { skip },
  async (t) => {
    const host = await startTestHost(t);
    const port = await outside(t);
    if (port === null) return t.skip("a public address cannot be put on the loopback interface here");
    await host.client.putBox("box-out", spec());
    const guest = guestOf(t, host, "box-out");
    const url = `http://${outsideAddress}:${port}/hello`;
    const plain = async () => (await guest.exec(`curl -s -m 10 ${url}`)).stdout;
    const tunnel = async () => (await guest.exec(`curl -s -m 10 -p ${url}`)).stdout;
    assert.match(await plain(), /EGRESS_DENIED/);
    await host.client.patchBox("box-out", { egress: { mode: "deny-all", allowedCidrs: ["203.0.113.0/24"] } });
    assert.equal(await plain(), "outside GET /hello");
    assert.equal(await tunnel(), "outside GET /hello");
    await host.client.patchBox("box-out", {
      egress: { mode: "allow-all", deniedCidrs: ["203.0.113.77/32"] },
    });
    assert.match(await plain(), /EGRESS_DENIED/);
    const response = await fetch(`${host.client.address.url}/boxes/box-out/egress`, {
      headers: { authorization: `Bearer ${host.client.address.token}` },
    });
    const attempts = (await response.json()) as { host: string; outcome: string }[];
    assert.deepEqual(
      attempts.map(({ outcome }) => outcome),
      ["EGRESS_DENIED", "ALLOWED", "ALLOWED", "EGRESS_DENIED"],
    );
  },
);

test(
  "a linked database answers at its name and port in the box, also one linked later",
  { skip },
  async (t) => {
    const host = await startTestHost(t);
    const engine = (await host.client.doctor()).engines.find((entry) => entry.engine === "postgresql");
    if (!engine?.usable) return t.skip(engine?.why ?? "no PostgreSQL here");
    const mib = 1024 * 1024;
    const { port } = await host.client.putDatabase("database-one", {
      ...{ engine: "postgresql", version: "16", memoryBytes: 256 * mib, storageBytes: 256 * mib },
      hostname: "db.example.test",
    });
    await host.client.putBox("box-linked", spec());
    const guest = guestOf(t, host, "box-linked");
    const script = `const s=require("net").connect(${port},"db.example.test",()=>s.write(Buffer.from([0,0,0,8,4,210,22,47])));s.on("data",d=>{console.log("tls "+d);s.destroy()});s.on("error",e=>console.log(e.code))`;
    const ask = async () => (await guest.exec(`node -e '${script}'`)).stdout.trim();
    assert.notEqual(await ask(), "tls S");
    const links = [{ databaseKey: "database-one", hostname: "db.example.test", port }];
    await host.client.patchBox("box-linked", { links, env: { DATABASE_URL: "changed" } });
    assert.equal(await ask(), "tls S");
    assert.equal((await guest.exec("echo $DATABASE_URL")).stdout.trim(), "changed");
    await host.kill("SIGKILL");
    await host.start();
    const later = await guestOf(t, host, "box-linked").exec(`node -e '${script}'`);
    assert.equal(later.stdout.trim(), "tls S");
  },
);
