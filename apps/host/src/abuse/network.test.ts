import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { hostname } from "node:os";
import { test } from "node:test";
import { guestOf, spec } from "../testing.ts";
import { openScene, ownKernel, skip } from "./scene.ts";

/** Asks the proxy raw; prints the status line of each answer, or the error. */
const asker = (asks: readonly string[], to = '{host:"127.0.0.1",port:3128}') => `node -e '
const net=require("net");const asks=${JSON.stringify(asks)};
const ask=(text)=>new Promise((done)=>{let seen="";const s=net.connect(${to},()=>s.write(text));
s.setTimeout(8000,()=>s.destroy());s.on("data",(d)=>{seen+=d;if(seen.length>4000)s.destroy()}).on("error",(e)=>seen||(seen=e.code)).on("close",()=>done(seen))});
(async()=>{for(const text of asks)console.log(JSON.stringify(await ask(text)))})()'`;

const connectTo = (target: string, extra = "") =>
  `CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n${extra}\r\n`;
const statusOf = (line: string) => Number(/^"HTTP\/1\.1 (\d{3})/.exec(line)?.[1] ?? 0);

test("a box reaches nothing of the machine, the network around it, or other boxes", { skip }, async (t) => {
  const scene = await openScene(t);
  const { attack, host, outside } = scene;
  const server = createServer((_request, response) => response.end("reached the machine"));
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  t.after(() => server.close());
  const { port } = server.address() as AddressInfo;
  const hostPort = Number(new URL(host.client.address.url).port);
  const direct = (url: string) =>
    attack(`curl -s -g --noproxy '*' -m 5 '${url}' -o /dev/null -w '%{http_code}'; true`);
  const proxied = async (asks: string[]) => (await attack(asker(asks))).split("\n");
  const refusesAll = async (targets: string[], others: number[] = []) => {
    const asks = targets.flatMap((to) => [
      connectTo(to),
      `GET http://${to}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`,
    ]);
    for (const [at, line] of (await proxied(asks)).entries()) {
      assert.ok([400, 403, 502, ...others].includes(statusOf(line)), `${asks[at]} => ${line}`);
      assert.ok(!line.includes("reached"), line);
    }
  };

  await t.test("loopback services of the machine do not answer directly", async () => {
    assert.equal(await direct(`http://127.0.0.1:${port}/`), "000");
    assert.equal(
      await outside(`curl -s -m 5 --noproxy '*' http://127.0.0.1:${port}/`),
      "reached the machine",
    );
    assert.equal(await direct(`http://127.0.0.1:${hostPort}/boxes`), "000");
  });
  await t.test(
    "loopback services of the machine are refused by the proxy, however the address is written",
    () =>
      refusesAll(
        [
          "127.0.0.1",
          "127.1",
          "0",
          "0.0.0.0",
          "2130706433",
          "0x7f000001",
          "0177.0.0.1",
          "127.0.0.1.",
          "localhost",
          "LOCALHOST.",
          "[::1]",
          "[::]",
          "[::ffff:127.0.0.1]",
          "[::ffff:7f00:1]",
          "[0:0:0:0:0:ffff:127.0.0.1]",
        ].map((name) => `${name}:${port}`),
      ),
  );
  await t.test("the host daemon's own interface is refused by the proxy", () =>
    refusesAll([`127.0.0.1:${hostPort}`]),
  );
  await t.test("metadata addresses are refused, IPv4 and IPv6", () =>
    refusesAll([
      "169.254.169.254:80",
      "[fd00:ec2::254]:80",
      "[::ffff:169.254.169.254]:80",
      "2852039166:80",
      "0xa9fea9fe:80",
      "169.254.170.2:80",
      "100.100.100.200:80",
    ]),
  );
  await t.test("private networks are refused, also as translated addresses", () =>
    refusesAll([
      "10.0.0.1:80",
      "172.16.0.1:80",
      "192.168.1.1:80",
      "[64:ff9b::a00:1]:80",
      "[2002:a00:1::]:80",
      "[fe80::1]:80",
      "[fc00::1]:80",
      "[::10.0.0.1]:80",
    ]),
  );
  await t.test("the machine's own names are refused, since they lead to it", async () => {
    await refusesAll([`${hostname()}:${port}`, `ip6-localhost:${port}`, `localhost.localdomain:${port}`]);
  });
  await t.test("loopback in letters that only look like figures is refused", () => {
    const names = "①②⑦.⓪.⓪.①,１２７.0.0.1,127。0。0。1,ｌｏｃａｌｈｏｓｔ,127%2e0%2e0%2e1,[::1%25lo]".split(
      ",",
    );
    // Bytes that no request line has end the connection without an answer.
    return refusesAll(
      names.map((name) => `${name}:${port}`),
      [0],
    );
  });
  await t.test("ports that are none are refused", () =>
    refusesAll(["203.0.113.9:0", "203.0.113.9:65536", "203.0.113.9:-1", `203.0.113.9:${65536 + port}`]),
  );
  await t.test("the proxy speaks no other protocol, and is none for a proxy", async () => {
    const asks = [
      "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
      "\x05\x01\x00",
      `\x04\x01${String.fromCharCode(port >> 8, port & 255)}\x7f\x00\x00\x01x\x00`,
      `GET / HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n`,
      `OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nConnection: close\r\n\r\n`,
    ];
    for (const line of await proxied(asks)) {
      assert.ok(!line.includes("reached"), line);
      assert.ok(statusOf(line) === 0 || statusOf(line) >= 400, line);
    }
  });
  await t.test("a redirect that leads inside is the program's own to follow, and refused then", async () => {
    const script = `require("http").createServer((q,s)=>s.writeHead(302,{location:"http://127.0.0.1:${port}/"}).end()).listen(8300,"127.0.0.1",()=>require("child_process").exec("curl -s -L -m 5 --noproxy 127.0.0.2 http://127.0.0.2:8300/; curl -s -L -m 5 -x http://127.0.0.1:3128 http://127.0.0.1:${port}/",(e,o)=>{console.log(o);process.exit()}))`;
    assert.ok(!(await attack(`node -e '${script}'`)).includes("reached"));
  });
  await t.test("no connection of the machine is listed", { skip: ownKernel }, async () => {
    const at = `:${port.toString(16).toUpperCase().padStart(4, "0")} `;
    assert.ok((await outside("cat /proc/net/tcp")).includes(at));
    assert.ok(
      !(await attack("cat /proc/net/tcp /proc/net/tcp6 /proc/1/net/tcp; ss -tan 2>/dev/null")).includes(at),
    );
  });
  await t.test("another box's server is not reached on any loopback address", async () => {
    for (const address of ["127.0.0.1", "127.0.0.2", "[::1]"])
      assert.equal(await direct(`http://${address}:8123/`), "000");
    await refusesAll(["127.0.0.1:8123", "127.0.0.2:8123"]);
  });
  await t.test("there is no interface but loopback, and no route", async () => {
    assert.equal(
      await attack(
        "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' \\n'; tail -n +2 /proc/net/route | wc -l",
      ),
      "lo0",
    );
  });
  await t.test("broadcasts and multicasts go nowhere", async () => {
    const script = `const s=require("dgram").createSocket("udp4");s.on("error",()=>process.exit());s.bind(()=>{s.setBroadcast(true);s.send("x",9,"255.255.255.255",(e)=>{console.log(e?e.code:"sent");s.close()})})`;
    assert.notEqual(await attack(`node -e '${script}'`), "sent");
  });
  await t.test("two requests smuggled as one are not both forwarded", async () => {
    const asks = [
      `GET http://127.0.0.1:${port}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
      `CONNECT 203.0.113.9:80 HTTP/1.1\r\nHost: x\r\n\r\nCONNECT 127.0.0.1:${port} HTTP/1.1\r\n\r\n`,
      `GET http://203.0.113.9@127.0.0.1:${port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`,
      `CONNECT 127.0.0.1:${port}#203.0.113.9:80 HTTP/1.1\r\nHost: 203.0.113.9:80\r\n\r\n`,
      `CONNECT 203.0.113.9:80@127.0.0.1:${port} HTTP/1.1\r\nHost: x\r\n\r\n`,
      `GET file:///etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`,
      `GET ftp://127.0.0.1:${port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`,
      `GET / HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nConnection: close\r\n\r\n`,
    ];
    for (const line of await proxied(asks))
      assert.ok(!line.includes("reached") && !line.includes("root:"), line);
  });
  await t.test("a request head without end is given up, and so are unreadable ones", async () => {
    const lines = await proxied([
      `GET http://a.test/ HTTP/1.1\r\nX: ${"a".repeat(60_000)}`,
      "\x00\x01\x02nonsense\r\n\r\n",
      connectTo(`${"a".repeat(5000)}:80`),
    ]);
    for (const line of lines) assert.ok(statusOf(line) === 0 || statusOf(line) >= 400, line.slice(0, 200));
    await scene.unharmed();
  });
  await t.test(
    "slow readers and thousands of connections to the proxy cost other boxes nothing",
    async () => {
      const script = `const net=require("net");let n=0,f=0;for(let i=0;i<3000;i++){const s=net.connect(3128,"127.0.0.1",()=>{n++;s.write("GET http://a.test/ HTTP/1.1\\r\\nX")});s.on("error",()=>f++);s.on("close",()=>f++)}setTimeout(()=>{console.log("tried");process.exit()},4000)`;
      const flood = attack(`node -e '${script}'`);
      await scene.neighbour.exec("true");
      assert.match(await flood, /tried/);
      await scene.unharmed();
      assert.equal(statusOf((await proxied([connectTo("127.0.0.1:1")]))[0] ?? ""), 403);
    },
  );
  await t.test("the proxy's socket is as closed as its port", async () => {
    const lines = (
      await attack(
        asker(
          [connectTo(`127.0.0.1:${port}`), connectTo("169.254.169.254:80")],
          '{path:"/run/agent/outbound.sock"}',
        ),
      )
    ).split("\n");
    assert.deepEqual(lines.map(statusOf), [403, 403]);
  });

  await host.client.putBox(
    "box-denied",
    spec({ egress: { mode: "deny-all", allowedDomains: ["allowed.test"] } }),
  );
  const denied = guestOf(t, host, "box-denied");
  const inDenied = async (command: string) =>
    (await denied.exec(command, { timeoutMs: 60_000 })).stdout.trim();
  await t.test("under deny a raw address is closed, directly and through the proxy", async () => {
    assert.equal(
      await inDenied("curl -s --noproxy '*' -m 5 http://1.1.1.1/ -o /dev/null -w '%{http_code}'; true"),
      "000",
    );
    assert.equal(statusOf(await inDenied(asker([connectTo("1.1.1.1:443")]))), 403);
    assert.equal(statusOf(await inDenied(asker([connectTo("[2606:4700:4700::1111]:443")]))), 403);
  });
  await t.test("under deny names are resolved by nobody, by UDP or TCP", async () => {
    assert.equal(await inDenied("getent hosts example.com | wc -l"), "0");
    const script = `const d=require("dns");const r=new d.Resolver({timeout:1000,tries:1});r.setServers(["8.8.8.8"]);r.resolve4("example.com",(e,a)=>console.log(e?"refused":a))`;
    assert.equal(await inDenied(`node -e '${script}'`), "refused");
    assert.equal(statusOf(await inDenied(asker([connectTo("8.8.8.8:53")]))), 403);
  });
  await t.test("under deny DNS over HTTPS is closed by name and by address", async () => {
    const lines = (
      await inDenied(
        asker(
          ["dns.google:443", "cloudflare-dns.com:443", "1.1.1.1:443", "8.8.4.4:443", "dns.quad9.net:443"].map(
            (to) => connectTo(to),
          ),
        ),
      )
    ).split("\n");
    assert.deepEqual(lines.map(statusOf), [403, 403, 403, 403, 403]);
  });
  await t.test("under deny an allowed name in the Host header or as a prefix opens nothing", async () => {
    const asks = [
      "CONNECT evil.test:443 HTTP/1.1\r\nHost: allowed.test:443\r\n\r\n",
      connectTo("allowed.test.evil.test:443"),
      connectTo("xallowed.test:443"),
      "GET http://evil.test/ HTTP/1.1\r\nHost: allowed.test\r\nConnection: close\r\n\r\n",
      "GET http://allowed.test@evil.test/ HTTP/1.1\r\nHost: allowed.test\r\nConnection: close\r\n\r\n",
      connectTo("evil.test:443", "X-Forwarded-Host: allowed.test\r\nForwarded: host=allowed.test\r\n"),
    ];
    const lines = (await inDenied(asker(asks))).split("\n");
    for (const [at, line] of lines.entries()) assert.equal(statusOf(line), 403, `${asks[at]} => ${line}`);
  });
  await t.test("settings of the agent do not open the way out", async () => {
    await inDenied(
      'env -u HTTP_PROXY -u HTTPS_PROXY true; curl -s -X PUT --unix-socket /run/agent/guest.sock http://box/config -d \'{"links":[{"host":"1.1.1.1","port":8443}]}\'',
    );
    assert.equal(
      await inDenied(
        "curl -s -k --noproxy '*' -m 5 https://127.0.0.1:8443/ -o /dev/null -w '%{http_code}'; true",
      ),
      "000",
    );
  });
  await scene.unharmed();
});
