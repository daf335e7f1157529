import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { createServer as createHttpServer } from "node:http";
import { createServer, type AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import type { TestContext } from "node:test";
import { HostError } from "@platform/host-api";
import { service } from "../../testing.ts";
import { NotRunHere, type Capability } from "./capability.ts";

const mib = 1024 * 1024;
const web = (port: number, address: string) =>
  `exec node -e 'require("http").createServer((q,s)=>s.end("from "+q.url)).listen(${port},"${address}")'`;

const ports: Capability = {
  name: "an open port is listed and reached; one on the loopback address alone is told apart",
  async prove(t, scene) {
    const key = await scene.standing("plain");
    const guest = scene.guest(t, key);
    await guest.services.put(service("open", web(8123, "0.0.0.0")));
    await guest.services.put(service("shut", web(8124, "127.0.0.1")));
    const open = await guest.probe(8123, { service: "open", timeoutMs: scene.patience(30_000) });
    assert.deepEqual([open.ok, open.httpStatus], [true, 200]);
    assert.equal(
      (await guest.probe(8124, { service: "shut", timeoutMs: scene.patience(30_000) })).reason,
      "bound_to_loopback",
    );
    const listed = (await guest.ports()).filter(({ port }) => port === 8123 || port === 8124);
    const facts = listed.map(({ port, loopbackOnly, pid }) => `${port} ${loopbackOnly} ${pid !== null}`);
    assert.deepEqual(facts.sort(), ["8123 false true", "8124 true true"]);
    const socket = await scene.host.client.dialPort(key, 8123);
    socket.end("GET /outside HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    assert.match(await text(socket), /from \/outside$/);
    await assert.rejects(scene.host.client.dialPort(key, 8125), HostError);
    for (const name of ["open", "shut"]) await guest.services.remove(name);
  },
};

/** Of a documentation range, so that it is neither private nor anybody's. */
const outsideAddress = `198.51.100.${(process.pid % 200) + 20}`;

/** A server that stands for the internet: a public address on this machine's loopback interface. */
async function outside(t: TestContext): Promise<number> {
  if (process.getuid?.() !== 0) throw new NotRunHere("only root can lend this machine a public address");
  try {
    execFileSync("ip", ["address", "add", `${outsideAddress}/32`, "dev", "lo"], { stdio: "pipe" });
  } catch {
    throw new NotRunHere("this machine lends nobody a public address (ip address add)");
  }
  t.after(() => execFileSync("ip", ["address", "del", `${outsideAddress}/32`, "dev", "lo"]));
  const server = createHttpServer((request, response) => response.end(`outside ${request.url}`));
  await new Promise<void>((done) => server.listen(0, outsideAddress, done));
  t.after(() => server.close());
  return (server.address() as AddressInfo).port;
}

const wayOut: Capability = {
  name: "the way out follows the policy and its changes",
  async prove(t, scene) {
    const port = await outside(t);
    const key = await scene.standing("plain");
    const ask = (more = "") =>
      scene.run(t, key, `curl -s -m ${scene.patience(20)} ${more} http://${outsideAddress}:${port}/hello`);
    assert.match(await ask(), /EGRESS_DENIED/);
    const allowedCidrs = ["198.51.100.0/24"];
    await scene.host.client.patchBox(key, { egress: { mode: "deny-all", allowedCidrs } });
    assert.equal(await ask(), "outside /hello");
    assert.equal(await ask("-p"), "outside /hello");
    await scene.host.client.patchBox(key, { egress: { mode: "deny-all" } });
    assert.match(await ask(), /EGRESS_DENIED/);
    assert.equal((await scene.host.client.egress(key))?.at(-1)?.outcome, "EGRESS_DENIED");
  },
};

const walls: Capability = {
  name: "nothing of the machine, of other boxes or of metadata services is in reach",
  async prove(t, scene) {
    const name = `conformance-${process.pid}`;
    const abstract = createServer().listen(`\0${name}`);
    const local = createHttpServer((_, response) => response.end("the machine")).listen(0, "127.0.0.1");
    t.after(() => [abstract, local].forEach((server) => server.close()));
    await Promise.all([once(abstract, "listening"), once(local, "listening")]);
    const port = (local.address() as AddressInfo).port;
    const neighbour = await scene.standing("plain");
    await scene.guest(t, neighbour).services.put(service("open", web(8123, "0.0.0.0")));
    await scene.guest(t, neighbour).probe(8123, { timeoutMs: scene.patience(30_000) });
    const key = await scene.fresh(t, "box-walled", { egress: { mode: "allow-all" } });
    const dial = `require("net").connect("\\0${name}").on("connect",()=>console.log("in")).on("error",e=>console.log(e.code))`;
    assert.equal(await scene.run(t, key, `node -e '${dial}'`), "ECONNREFUSED");
    const direct = (url: string) =>
      scene.run(t, key, `curl -s --noproxy '*' -m ${scene.patience(10)} ${url}; echo $?`);
    for (const url of [`http://127.0.0.1:${port}/`, "http://127.0.0.1:8123/", "http://169.254.169.254/"])
      assert.equal(await direct(url), "7", `${url} refuses`);
    for (const target of [`127.0.0.1:${port}`, "169.254.169.254:80", "[::1]:80", "10.0.0.1:80"]) {
      const asked = `curl -s -x http://127.0.0.1:3128 --noproxy '' -m ${scene.patience(10)} http://${target}/`;
      assert.match(await scene.run(t, key, asked), /ADDRESS_NOT_ALLOWED/, target);
    }
    const folders = `ls -d ${scene.host.dataDir} /root/* /proc/1/root/work 2>/dev/null; ls /home`;
    assert.equal(await scene.run(t, key, folders), "user");
    await scene.guest(t, neighbour).services.remove("open");
  },
};

const link: Capability = {
  name: "a linked database answers at its own name and port",
  async prove(t, scene) {
    const { client } = scene.host;
    const engine = (await client.doctor()).engines.find((entry) => entry.engine === "postgresql");
    if (!engine?.usable) throw new NotRunHere(engine?.why ?? "this machine has no PostgreSQL");
    const hostname = "db.example.test";
    const { port } = await client.putDatabase("database-one", {
      ...{ engine: "postgresql", version: "16", memoryBytes: 256 * mib, storageBytes: 256 * mib, hostname },
    });
    const key = await scene.standing("plain");
    // Asks for TLS, as every client does first; the server answers with one letter.
    const script = `const s=require("net").connect(${port},"${hostname}",()=>s.write(Buffer.from([0,0,0,8,4,210,22,47])));s.on("data",d=>{console.log("tls "+d);s.destroy()});s.on("error",e=>console.log(e.code))`;
    const ask = () => scene.run(t, key, `node -e '${script}'`);
    assert.notEqual(await ask(), "tls S");
    await client.patchBox(key, { links: [{ databaseKey: "database-one", hostname, port }] });
    assert.equal(await ask(), "tls S");
    await client.patchBox(key, { links: [] });
    assert.notEqual(await ask(), "tls S");
    await client.deleteDatabase("database-one");
  },
};

export const network = [ports, wayOut, walls, link];
