import assert from "node:assert/strict";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { connect } from "node:net";
import { after, before, test } from "node:test";
import { createLog, waitFor } from "@platform/daemon";
import dns, { RECURSION_DESIRED, type Packet } from "dns-packet";
import { DnsServer } from "./index.ts";

const zone = "acme.example";
const label = "0123456789abcdef0123456789abcdef";
const texts = new Map<string, string[]>([[`${label}.${zone}`, ["first", "second"]]]);
const server = new DnsServer(
  {
    name: zone,
    nameservers: ["ns1.example", "ns2.example"],
    contact: "hostmaster.acme.example",
    texts: (name) => texts.get(name) ?? [],
  },
  createLog("test", "silent"),
  40,
);
let port = 0;
before(async () => {
  port = await server.listen(0, "127.0.0.1");
});
after(() => server.close());

/** The types leave out what the decoder adds. */
type DecodedPacket = dns.DecodedPacket & { readonly rcode: string };
const decode = (message: Buffer) => dns.decode(message) as DecodedPacket;

const question = (name: string, type: string, fields: Partial<Packet> = {}): Packet => ({
  type: "query",
  id: 4_711,
  flags: RECURSION_DESIRED,
  questions: [{ name, type: type as "TXT", class: "IN" }],
  ...fields,
});

async function send(message: Buffer, from = "127.0.0.1"): Promise<Buffer | null> {
  const socket = createSocket("udp4");
  try {
    socket.bind(0, from);
    await once(socket, "listening");
    socket.send(message, port, "127.0.0.1");
    const [answer] = (await once(socket, "message", { signal: AbortSignal.timeout(5_000) })) as [Buffer];
    return answer;
  } catch (error) {
    if ((error as Error).name === "AbortError") return null;
    throw error;
  } finally {
    socket.close();
  }
}

async function ask(name: string, type: string, fields: Partial<Packet> = {}): Promise<DecodedPacket> {
  const answer = await send(dns.encode(question(name, type, fields)));
  assert.ok(answer, "an answer by UDP");
  return decode(answer);
}

async function askByTcp(messages: Buffer[]): Promise<DecodedPacket[]> {
  const socket = connect(port, "127.0.0.1");
  const sized = messages.map((message) => {
    const size = Buffer.alloc(2);
    size.writeUInt16BE(message.length);
    return Buffer.concat([size, message]);
  });
  const bytes = Buffer.concat(sized);
  // In two pieces: what a stream brings together or apart means nothing.
  socket.write(bytes.subarray(0, 5));
  socket.write(bytes.subarray(5));
  let got = Buffer.alloc(0);
  const answers: DecodedPacket[] = [];
  for await (const chunk of socket) {
    got = Buffer.concat([got, chunk as Buffer]);
    while (got.length >= 2 && got.length >= got.readUInt16BE(0) + 2) {
      answers.push(decode(got.subarray(2, got.readUInt16BE(0) + 2)));
      got = got.subarray(got.readUInt16BE(0) + 2);
    }
    if (answers.length === messages.length) break;
  }
  return answers;
}

const texts_ = (packet: DecodedPacket) =>
  packet.answers!.map((one) => (one.type === "TXT" ? String((one.data as Buffer[])[0]) : one.type));

test("all values of a name are answered, with authority and without recursion", async () => {
  const packet = await ask(`${label}.${zone}`, "TXT");
  assert.deepEqual(texts_(packet), ["first", "second"]);
  assert.equal(packet.id, 4_711);
  assert.deepEqual(
    [packet.flag_aa, packet.flag_ra, packet.flag_rd, packet.rcode],
    [true, false, true, "NOERROR"],
  );
});

test("capital letters mean nothing, and come back as they were sent", async () => {
  const mixed = `${label.toUpperCase()}.AcMe.eXaMpLe`;
  const packet = await ask(mixed, "TXT");
  assert.equal(packet.questions![0]!.name, mixed);
  assert.equal(packet.answers![0]!.name, mixed);
  assert.equal(packet.answers!.length, 2);
});

test("another type, and a label without a value, exist without data; the zone's SOA says how long that holds", async () => {
  for (const [name, type] of [
    [`${label}.${zone}`, "A"],
    [`${label}.${zone}`, "CAA"],
    [`${"f".repeat(32)}.${zone}`, "TXT"],
    [zone, "TXT"],
  ] as const) {
    const packet = await ask(name, type);
    assert.deepEqual([packet.rcode, packet.answers!.length], ["NOERROR", 0], `${name} ${type}`);
    assert.deepEqual(
      packet.authorities!.map((one) => one.type),
      ["SOA"],
    );
  }
});

test("the zone tells its SOA and name servers", async () => {
  assert.equal((await ask(zone, "SOA")).answers![0]!.type, "SOA");
  assert.deepEqual(
    (await ask(zone, "NS")).answers!.map((one) => (one.type === "NS" ? one.data : one.type)),
    ["ns1.example", "ns2.example"],
  );
});

test("a name that cannot be one of ours does not exist; other zones, transfers and ANY are refused", async () => {
  assert.equal((await ask(`www.${zone}`, "TXT")).rcode, "NXDOMAIN");
  assert.equal((await ask(`a.${label}.${zone}`, "TXT")).rcode, "NXDOMAIN");
  for (const [name, type] of [
    ["example.com", "A"],
    [`not${zone}`, "TXT"],
    [zone, "AXFR"],
    [zone, "ANY"],
  ] as const)
    assert.equal((await ask(name, type)).rcode, "REFUSED", `${name} ${type}`);
});

test("EDNS is answered in kind, and another version of it refused", async () => {
  const option = (ednsVersion: number) =>
    ({
      type: "OPT",
      name: ".",
      udpPayloadSize: 4_096,
      extendedRcode: 0,
      ednsVersion,
      flags: 0,
      options: [],
    }) as never;
  const packet = await ask(`${label}.${zone}`, "TXT", { additionals: [option(0)] });
  assert.deepEqual(
    packet.additionals!.map((one) => (one.type === "OPT" ? one.udpPayloadSize : one.type)),
    [1_232],
  );
  const newer = await ask(`${label}.${zone}`, "TXT", { additionals: [option(1)] });
  const opt = newer.additionals![0] as unknown as { extendedRcode: number };
  assert.deepEqual([opt.extendedRcode, newer.answers!.length], [1, 0]);
});

test("an answer too long for UDP is cut and marked, and comes whole by TCP, several on one connection", async () => {
  const long = "abcdef0123456789abcdef0123456789";
  texts.set(
    `${long}.${zone}`,
    Array.from({ length: 20 }, (_, index) => `${index} ${"x".repeat(43)}`),
  );
  const cut = await ask(`${long}.${zone}`, "TXT");
  assert.deepEqual([cut.flag_tc, cut.answers!.length], [true, 0]);
  const answers = await askByTcp([
    dns.encode(question(`${long}.${zone}`, "TXT")),
    dns.encode(question(`${label}.${zone}`, "TXT")),
  ]);
  assert.deepEqual(
    answers.map((packet) => packet.answers!.length),
    [20, 2],
  );
});

test("what is no question gets no answer, or one that says what is wrong with it", async () => {
  const query = dns.encode(question(`${label}.${zone}`, "TXT"));
  const broken = Buffer.from(query.subarray(0, 20));
  assert.equal(decode((await send(broken))!).rcode, "FORMERR");
  const update = Buffer.from(query);
  update[2] = update[2]! | (5 << 3);
  assert.equal((await send(update))![3]! & 15, 4, "NOTIMP");
  const reply = Buffer.from(query);
  reply[2] = reply[2]! | 0x80;
  const socket = createSocket("udp4");
  socket.bind(0, "127.0.0.1");
  await once(socket, "listening");
  let got = 0;
  socket.on("message", () => got++);
  for (const silent of [reply, Buffer.from("x"), Buffer.alloc(0)]) socket.send(silent, port, "127.0.0.1");
  socket.send(query, port, "127.0.0.1");
  await once(socket, "message");
  assert.equal(got, 1, "only the question was answered");
  socket.close();
});

test("a flood from one network is answered with hints to use TCP, then not at all; others go on", async (t) => {
  const query = dns.encode(question(`${label}.${zone}`, "TXT"));
  const socket = createSocket("udp4");
  t.after(() => socket.close());
  socket.bind(0, "127.9.9.9");
  await once(socket, "listening");
  let whole = 0;
  let cut = 0;
  socket.on("message", (answer: Buffer) => ((answer[2]! & 2) === 0 ? whole++ : cut++));
  await waitFor(
    "a hint after the answers of a second are used up",
    () => {
      if (cut === 0) for (let index = 0; index < 100; index++) socket.send(query, port, "127.0.0.1");
      return cut > 0 && whole > 0;
    },
    60_000,
  );
  // What the flood left in the socket's queue may push a question out: it is sent again, as resolvers do.
  await waitFor("another network's answer", async () => (await send(query, "127.8.8.8")) ?? false, 60_000);
});
