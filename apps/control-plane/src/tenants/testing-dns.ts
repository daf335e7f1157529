import { createSocket } from "node:dgram";
import type { AddressInfo } from "node:net";
import { once } from "node:events";
import type { TestContext } from "node:test";

type Zone = Record<string, { TXT?: string; CNAME?: string }>;
const typeNumbers: Record<number, "TXT" | "CNAME"> = { 16: "TXT", 5: "CNAME" };

const encodeName = (name: string) =>
  Buffer.concat([
    ...name.split(".").map((label) => Buffer.from([label.length, ...Buffer.from(label)])),
    Buffer.from([0]),
  ]);

function questionOf(message: Buffer): { name: string; type: number; end: number } {
  const labels: string[] = [];
  let at = 12;
  for (let length = message[at]!; length > 0; length = message[at]!) {
    labels.push(message.subarray(at + 1, at + 1 + length).toString("latin1"));
    at += length + 1;
  }
  return { name: labels.join(".").toLowerCase(), type: message.readUInt16BE(at + 1), end: at + 5 };
}

/** A name server on loopback with TXT and CNAME records; `*.` names match one label. All else does not exist. */
export async function startNameServer(t: TestContext, zone: Zone): Promise<string> {
  const socket = createSocket("udp4");
  t.after(() => socket.close());
  socket.on("message", (message, from) => {
    const { name, type, end } = questionOf(message);
    const record = zone[name] ?? zone[name.replace(/^[^.]+/, "*")];
    const kind = typeNumbers[type];
    const value = kind ? record?.[kind] : undefined;
    const header = Buffer.from(message.subarray(0, 12));
    header.writeUInt16BE(record ? 0x8180 : 0x8183, 2);
    header.writeUInt16BE(value === undefined ? 0 : 1, 6);
    header.writeUInt32BE(0, 8);
    const parts = [header, message.subarray(12, end)];
    if (value !== undefined) {
      const data = kind === "TXT" ? Buffer.from([value.length, ...Buffer.from(value)]) : encodeName(value);
      const answer = Buffer.from([0xc0, 12, 0, type, 0, 1, 0, 0, 0, 1, data.length >> 8, data.length & 255]);
      parts.push(answer, data);
    }
    socket.send(Buffer.concat(parts), from.port, from.address);
  });
  socket.bind(0, "127.0.0.1");
  await once(socket, "listening");
  return `127.0.0.1:${(socket.address() as AddressInfo).port}`;
}
