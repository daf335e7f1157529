import { connect } from "node:net";
import type { Duplex } from "node:stream";
import { HostError } from "@platform/host-api";
import type { Boxes, LiveBox } from "../boxes/index.ts";
import type { EngineRegistry } from "../engines/registry.ts";
import { splice } from "./splice.ts";

const headEnd = "\r\n\r\n";
const maxHeadBytes = 16_384;
/** Connections into one box at a time. */
const maxTunnels = 1024;
/** Most time for the agent's answer to CONNECT. A box may replace its agent by one that never answers. */
const answerTimeoutMs = 10_000;

interface Head {
  readonly status: number;
  readonly rest: Buffer;
}

/** Reads the agent's answer to CONNECT and leaves what follows it unread. */
function readHead(stream: Duplex): Promise<Head> {
  return new Promise((resolve, reject) => {
    let seen = Buffer.alloc(0);
    const done = () => stream.off("data", onData).off("error", fail).off("close", fail);
    const fail = (cause?: Error) => {
      done();
      reject(new HostError("BOX_FAILED", 502, "The box's agent closed the connection.", {}, { cause }));
    };
    const onData = (chunk: Buffer) => {
      seen = Buffer.concat([seen, chunk]);
      const end = seen.indexOf(headEnd);
      if (end < 0) {
        if (seen.length > maxHeadBytes) fail();
        return;
      }
      done();
      stream.pause();
      const status = Number(seen.subarray(9, 12).toString("latin1"));
      resolve({ status, rest: seen.subarray(end + headEnd.length) });
    };
    stream.on("data", onData).on("error", fail).on("close", fail);
  });
}

/** The agent's refusal in the host's words; its body follows the head and is short. */
async function refusal(stream: Duplex, start: Buffer, port: number): Promise<HostError> {
  let text = start.toString("utf8");
  try {
    for await (const chunk of stream) {
      text += String(chunk);
      if (text.length > maxHeadBytes) break;
    }
    const { error } = JSON.parse(text) as { error: { code: string; message: string } };
    return new HostError("PORT_REFUSED", 502, error.message, { reason: error.code });
  } catch (cause) {
    return new HostError("PORT_REFUSED", 502, `Nothing accepts on port ${port} in the box.`, {}, { cause });
  }
}

export interface DialedPort {
  readonly box: LiveBox;
  /** Null: the client left meanwhile. */
  readonly guest: Duplex | null;
  /** What the box said already. */
  readonly rest: Buffer;
}

/**
 * A raw stream to a port in a box for as long as the client stays; without a port, to the box's agent.
 *
 * @param target.reach `inside`: also to a port that only listens inside the box
 * @throws HostError; nothing has been written to `client` then
 */
export async function dialPort(
  boxes: Boxes,
  { key, reach, port }: { key: string; reach: "box" | "inside"; port: number | null },
  client: Duplex,
): Promise<DialedPort> {
  const box = boxes.get(key);
  box.assertRunning();
  if (box.tunnels >= maxTunnels) {
    const message = `Box ${key} has ${maxTunnels} open connections, the most there may be.`;
    throw new HostError("TOO_MANY_CONNECTIONS", 503, message);
  }
  box.tunnels += 1;
  client.once("close", () => (box.tunnels -= 1));
  let guest: Duplex;
  try {
    guest = await box.dialGuest();
  } catch (cause) {
    throw new HostError("BOX_FAILED", 502, `The agent of box ${key} does not answer.`, {}, { cause });
  }
  guest.on("error", () => guest.destroy());
  const giveUp = () => guest.destroy();
  if (client.destroyed) {
    giveUp();
    return { box, guest: null, rest: Buffer.alloc(0) };
  }
  client.once("close", giveUp);
  if (port === null) return { box, guest, rest: Buffer.alloc(0) };
  const timer = setTimeout(giveUp, answerTimeoutMs);
  guest.write(`CONNECT ${reach}:${port} HTTP/1.1\r\nhost: ${reach}:${port}\r\n\r\n`);
  const answer = await readHead(guest).catch((error: unknown) => {
    clearTimeout(timer);
    guest.destroy();
    throw error;
  });
  if (answer.status !== 200) {
    const error = await refusal(guest, answer.rest, port);
    clearTimeout(timer);
    guest.destroy();
    throw error;
  }
  clearTimeout(timer);
  client.off("close", giveUp);
  if (client.destroyed) {
    guest.destroy();
    return { box, guest: null, rest: answer.rest };
  }
  return { box, guest, rest: answer.rest };
}

/**
 * Answers `CONNECT key:port` with a raw stream to that port in the box, `CONNECT key:any-PORT` also to one
 * that only listens inside the box, `CONNECT key:agent` with a stream to the box's agent, and `CONNECT key:server`
 * with one to the server of a database.
 *
 * @throws HostError; nothing has been written to `client` then
 */
export async function openTunnel(
  { boxes, engines }: { boxes: Boxes; engines: EngineRegistry },
  target: string,
  client: Duplex,
  head: Buffer,
): Promise<void> {
  const [, database] = /^([a-z0-9-]+):server$/.exec(target) ?? [];
  if (database !== undefined) return openServer(engines, database, client, head);
  const [, key = "", reach = "", port = ""] = /^([a-z0-9-]+):(?:agent|(any-)?(\d{1,5}))$/.exec(target) ?? [];
  if (key === "") throw new HostError("INVALID", 400, 'CONNECT needs "boxKey:port".');
  const { box, guest, rest } = await dialPort(
    boxes,
    { key, reach: reach === "" ? "box" : "inside", port: port === "" ? null : Number(port) },
    client,
  );
  if (guest) join(box, client, guest, head, rest);
}

/** The bytes of a database's protocol, TLS and login included, straight to its server. */
async function openServer(engines: EngineRegistry, key: string, client: Duplex, head: Buffer): Promise<void> {
  const found = await engines.find(key);
  if (!found) throw new HostError("NOT_FOUND", 404, `There is no database ${key}.`);
  const { database } = found;
  const server = connect({ host: "127.0.0.1", port: database.port, noDelay: true });
  await new Promise<void>((resolve, reject) => {
    server.once("connect", resolve);
    server.once("error", (cause) =>
      reject(
        new HostError("PORT_REFUSED", 502, `The server of database ${key} does not accept.`, {}, { cause }),
      ),
    );
  });
  server.on("error", () => server.destroy());
  if (client.destroyed) return void server.destroy();
  client.once("close", () => server.destroy());
  server.once("close", () => client.end());
  client.write("HTTP/1.1 200 Connection established\r\n\r\n");
  if (head.length > 0) server.write(head);
  client.pipe(server).pipe(client);
}

function join(box: LiveBox, client: Duplex, guest: Duplex, fromClient: Buffer, fromGuest: Buffer): void {
  client.write("HTTP/1.1 200 Connection established\r\n\r\n");
  if (fromGuest.length > 0) client.write(fromGuest);
  if (fromClient.length > 0) guest.write(fromClient);
  splice(client, guest, box.paces);
}
