import { createSocket, type Socket as UdpSocket } from "node:dgram";
import { once } from "node:events";
import { createServer, type AddressInfo, type Server, type Socket } from "node:net";
import type { Log } from "@platform/daemon";
import { answerQuery, truncatedAnswer, udpBytes, type Zone } from "./answer.ts";
import { RateLimit } from "./rate-limit.ts";

const MAX_TCP = 200;
const TCP_IDLE_MS = 10_000;
/** Questions on one connection. */
const MAX_QUESTIONS = 100;
const ANSWERS_PER_SECOND = 50;
/** Addresses of one network share their limit: /24 and /56. */
const networkOf = (address: string): string =>
  address.includes(":")
    ? address.split(":").slice(0, 4).join(":").slice(0, 17)
    : address.replace(/\.\d+$/, "");

/**
 * Name server for one zone, in which authorities find the answers to DNS-01 challenges. UDP and TCP on the
 * same port.
 */
export class DnsServer {
  readonly #zone: Zone;
  readonly #log: Log;
  readonly #limit: RateLimit;
  readonly #connections = new Set<Socket>();
  #udp: UdpSocket | null = null;
  #tcp: Server | null = null;

  constructor(zone: Zone, log: Log, answersPerSecond = ANSWERS_PER_SECOND) {
    this.#zone = zone;
    this.#log = log;
    this.#limit = new RateLimit(answersPerSecond);
  }

  /** @returns the port, the same for both */
  async listen(port: number, address: string): Promise<number> {
    const tcp = createServer((socket) => this.#serve(socket));
    tcp.maxConnections = MAX_TCP;
    tcp.listen(port, address);
    await once(tcp, "listening");
    this.#tcp = tcp;
    const chosen = (tcp.address() as AddressInfo).port;
    const udp = createSocket(address.includes(":") ? "udp6" : "udp4");
    udp.on("message", (message, from) => {
      const verdict = this.#limit.take(networkOf(from.address), Date.now());
      if (verdict === "drop") return;
      const answer =
        verdict === "truncate" ? truncatedAnswer(message) : answerQuery(this.#zone, message, udpBytes);
      // What cannot be sent is asked again.
      if (answer) udp.send(answer, from.port, from.address, () => undefined);
    });
    udp.bind(chosen, address);
    await once(udp, "listening");
    udp.on("error", (error) => this.#log.error({ err: error }, "the name server's UDP socket failed"));
    this.#udp = udp;
    return chosen;
  }

  async close(): Promise<void> {
    this.#udp?.close();
    for (const socket of this.#connections) socket.destroy();
    const tcp = this.#tcp;
    if (tcp) await new Promise((resolve) => tcp.close(resolve));
  }

  #serve(socket: Socket): void {
    this.#connections.add(socket);
    let buffered = Buffer.alloc(0);
    let questions = 0;
    socket.setTimeout(TCP_IDLE_MS, () => socket.destroy());
    socket.on("error", () => socket.destroy());
    socket.on("close", () => this.#connections.delete(socket));
    socket.on("data", (chunk: Buffer) => {
      buffered = Buffer.concat([buffered, chunk]);
      while (buffered.length >= 2) {
        const length = buffered.readUInt16BE(0);
        if (buffered.length < length + 2) break;
        const message = buffered.subarray(2, length + 2);
        buffered = buffered.subarray(length + 2);
        const answer = ++questions <= MAX_QUESTIONS ? answerQuery(this.#zone, message, "tcp") : null;
        if (!answer) {
          socket.destroy();
          return;
        }
        const size = Buffer.alloc(2);
        size.writeUInt16BE(answer.length, 0);
        socket.write(Buffer.concat([size, answer]));
      }
    });
  }
}
