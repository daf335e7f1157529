import assert from "node:assert/strict";
import { once } from "node:events";
import { after, before, test } from "node:test";
import { connect, type TLSSocket } from "node:tls";
import { Rig } from "../testing/rig.ts";

const hostname = "app.clinic.test";
const hidden = "GET /smuggled HTTP/1.1\r\nHost: app.clinic.test\r\n\r\n";
/** What apps saw: method, target, and the names of all headers. */
const seen: { line: string; host: string | undefined; names: string[]; body: string }[] = [];

let rig: Rig;
let authority: string;
before(async () => {
  ({ rig, authority } = await Rig.startTls());
  const app = await rig.app((req, res) => {
    let body = "";
    req.setEncoding("utf8").on("data", (part: string) => (body += part));
    req.on("end", () => {
      const { host } = req.headers;
      seen.push({ line: `${req.method} ${req.url}`, host, names: Object.keys(req.headers), body });
      res.end("answered");
    });
  });
  await rig.publish({ [hostname]: app.target, "other.clinic.test": app.target });
});
after(() => rig.stop());

type Field = readonly [string, string];

/** RFC 9113 section 4.1: length, type, flags, stream. */
function frame(type: number, flags: number, stream: number, payload: Buffer): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head.writeUInt8(type, 3);
  head.writeUInt8(flags, 4);
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

/** RFC 7541 section 6.2.2, without Huffman codes: whatever the bytes are, they go out as they are. */
function block(fields: readonly Field[]): Buffer {
  const text = (value: string) => {
    const bytes = Buffer.from(value, "latin1");
    assert.ok(bytes.length < 127);
    return Buffer.concat([Buffer.from([bytes.length]), bytes]);
  };
  return Buffer.concat(fields.flatMap(([name, value]) => [Buffer.from([0]), text(name), text(value)]));
}

async function open(): Promise<TLSSocket> {
  const socket = connect({
    ...{ host: "127.0.0.1", port: rig.edge.tlsPort!, servername: hostname, ca: authority },
    ALPNProtocols: ["h2"],
  });
  socket.on("error", () => undefined); // What the edge makes of it is read from its frames.
  await once(socket, "secureConnect");
  assert.equal(socket.alpnProtocol, "h2");
  socket.write(
    Buffer.concat([Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), frame(4, 0, 0, Buffer.alloc(0))]),
  );
  return socket;
}

/** Sends one request as it is written here. @returns how its stream ended: a status's frame, or a refusal */
async function send(fields: readonly Field[], body?: string): Promise<"answered" | "refused"> {
  const socket = await open();
  const ends = new Promise<"answered" | "refused">((resolve) => {
    let all = Buffer.alloc(0);
    socket.on("data", (part: Buffer) => {
      all = Buffer.concat([all, part]);
      while (all.length >= 9 && all.length >= 9 + all.readUIntBE(0, 3)) {
        const [length, type, stream] = [all.readUIntBE(0, 3), all[3], all.readUInt32BE(5)];
        all = all.subarray(9 + length);
        if (type === 1 && stream === 1) resolve("answered");
        if (type === 3 || type === 7) resolve("refused"); // RST_STREAM, GOAWAY
      }
    });
    socket.on("close", () => resolve("refused"));
  });
  const data = body === undefined ? [] : [frame(0, 1, 1, Buffer.from(body, "latin1"))];
  socket.write(Buffer.concat([frame(1, body === undefined ? 5 : 4, 1, block(fields)), ...data]));
  const ended = await ends;
  socket.destroy();
  return ended;
}

const get: Field[] = [
  [":method", "GET"],
  [":scheme", "https"],
  [":authority", hostname],
  [":path", "/"],
];
const post: Field[] = [[":method", "POST"], ...get.slice(1)];
const withPath = (path: string): Field[] => [...get.slice(0, 3), [":path", path]];

/** Each would become something else, were it written into HTTP/1.1 as it is. */
const attempts: Record<string, [readonly Field[], string?]> = {
  "a line break in a value": [[...get, ["x-a", `1\r\n\r\n${hidden}`]]],
  "a line feed alone in a value": [[...get, ["x-a", "1\nx-smuggled: 1"]]],
  "a zero byte in a value": [[...get, ["x-a", "1\0x-smuggled: 1"]]],
  "a line break in a name": [[...get, ["x-a: 1\r\nx-smuggled", "1"]]],
  "a colon in a name": [[...get, ["x-smuggled: 1\r\nx-b", "1"]]],
  "an upper case name": [[...get, ["X-Smuggled", "1"]]],
  "a line break in the path": [withPath(`/ HTTP/1.1\r\nHost: a\r\n\r\n${hidden}`.slice(0, 100))],
  "a space in the path": [withPath("/smuggled HTTP/1.1")],
  "a line break in the method": [[[":method", "GET / HTTP/1.1\r\nx-smuggled: 1\r\nx-b:"], ...get.slice(1)]],
  "a line break in the authority": [
    [...get.slice(0, 2), [":authority", `${hostname}\r\nx-smuggled: 1`], get[3]!],
  ],
  chunks: [[...post, ["transfer-encoding", "chunked"]], `0\r\n\r\n${hidden}`],
  "chunks in a trailing space": [[...post, ["transfer-encoding", "chunked "]], `0\r\n\r\n${hidden}`],
  "a length shorter than the body": [[...post, ["content-length", "3"]], `abc${hidden}`],
  "a length longer than the body": [[...post, ["content-length", "300"]], "abc"],
  "two lengths": [[...post, ["content-length", "3"], ["content-length", "4"]], "abc"],
  "a connection's own header": [[...get, ["connection", "x-smuggled"], ["x-smuggled", "1"]]],
  "an upgrade": [[...get, ["upgrade", "websocket"], ["x-smuggled", "1"]]],
  "two hosts": [[...get, ["host", "other.clinic.test"]]],
  "two paths": [[...get, [":path", "/smuggled"]]],
  "a pseudo-header after the others": [[...get.slice(0, 3), ["x-a", "1"], [":path", "/smuggled"]]],
  "an unknown pseudo-header": [[...get, [":smuggled", "1"]]],
};

for (const [name, [fields, body]] of Object.entries(attempts)) {
  test(`${name} reaches no app as something else`, async () => {
    seen.length = 0;
    const ended = await send(fields, body);
    const text = JSON.stringify(seen);
    assert.ok(!text.includes("smuggled"), `${ended}: ${text}`);
    for (const one of seen) {
      assert.match(one.line, /^(GET|POST) \/$/);
      // RFC 9113 section 8.3.1: :authority says whose it is.
      assert.equal(one.host, hostname);
    }
  });
}

test("after all of them an honest request is answered", async () => {
  seen.length = 0;
  assert.equal(await send([...post, ["content-length", "3"]], "abc"), "answered");
  assert.deepEqual(
    seen.map(({ line, body }) => [line, body]),
    [["POST /", "abc"]],
  );
});
