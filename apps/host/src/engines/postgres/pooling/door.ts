import { connect, createServer, type Server, type Socket } from "node:net";
import { createSecureContext, TLSSocket, type SecureContext } from "node:tls";
import { Statements, TooManyStatementsError } from "./statements.ts";

const startupTimeoutMs = 15_000;
const mostStartupBytes = 10_000;
const requests = { cancel: 80_877_102, tls: 80_877_103, gss: 80_877_104 } as const;

export interface DoorOptions {
  readonly certificate: string;
  readonly key: string;
  /** Where the pooler listens, on 127.0.0.1. */
  readonly poolerPort: number;
  /** The database that clients name, and what the pooler calls their share of it. */
  readonly database: string;
  readonly share: string;
}

/** Where clients of a pooler come in: TLS or nothing, prepared statements, and one share of the connections. */
export class PoolDoor {
  readonly #options: DoorOptions;
  readonly #context: SecureContext;
  readonly #server: Server;
  readonly #sessions = new Map<Socket, string>();
  readonly #open = new Set<Socket>();

  constructor(options: DoorOptions) {
    this.#options = options;
    this.#context = createSecureContext({
      cert: options.certificate,
      key: options.key,
      minVersion: "TLSv1.2",
    });
    this.#server = createServer({ noDelay: true }, (socket) => void this.#welcome(socket));
    this.#server.maxConnections = 1000;
  }

  get poolerPort(): number {
    return this.#options.poolerPort;
  }

  get isListening(): boolean {
    return this.#server.listening;
  }

  async listen(port: number): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#server.once("error", reject);
    this.#server.listen(port, "127.0.0.1", resolve);
    await promise;
    this.#server.off("error", reject);
    // Whoever cannot be let in is let go; the server itself goes on.
    this.#server.on("error", () => undefined);
  }

  /** Sends away whoever came in by these accounts. */
  endSessions(usernames: ReadonlySet<string>): void {
    for (const [socket, username] of this.#sessions) if (usernames.has(username)) socket.destroy();
  }

  async close(): Promise<void> {
    for (const socket of this.#open) socket.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  #track(socket: Socket): Socket {
    this.#open.add(socket);
    socket.once("close", () => this.#open.delete(socket));
    socket.on("error", () => socket.destroy());
    return socket;
  }

  async #welcome(raw: Socket): Promise<void> {
    this.#track(raw);
    const timer = setTimeout(() => raw.destroy(), startupTimeoutMs);
    try {
      const first = await readStartup(raw);
      if (first === null) return;
      const code = first.readUInt32BE(4);
      if (code === requests.gss) {
        raw.write("N");
        return void this.#welcome(raw);
      }
      if (code === requests.cancel) return await this.#cancel(raw, first);
      if (code !== requests.tls) {
        raw.end(fatal("28000", "This server accepts encrypted connections only. Use sslmode=require."));
        return;
      }
      raw.write("S");
      const socket = new TLSSocket(raw, { isServer: true, secureContext: this.#context });
      socket.on("error", () => raw.destroy());
      const startup = await readStartup(socket);
      if (startup === null) return;
      if (startup.readUInt32BE(4) === requests.cancel) return await this.#cancel(socket, startup);
      await this.#join(socket, startup);
    } catch {
      // A client that speaks another protocol, or leaves.
      raw.destroy();
    } finally {
      clearTimeout(timer);
    }
  }

  async #cancel(client: Socket, request: Buffer): Promise<void> {
    const upstream = this.#track(connect({ port: this.#options.poolerPort, host: "127.0.0.1" }));
    upstream.end(request);
    upstream.resume();
    await new Promise<void>((resolve) => upstream.once("close", () => resolve()));
    client.end();
  }

  async #join(client: Socket, startup: Buffer): Promise<void> {
    const { poolerPort, database, share } = this.#options;
    const { head, username } = withDatabase(startup, database, share);
    const upstream = this.#track(connect({ port: poolerPort, host: "127.0.0.1", noDelay: true }));
    upstream.once("error", () =>
      client.end(fatal("57P03", "The pooler is not there now. It is being started again.")),
    );
    await new Promise<void>((resolve, reject) => {
      upstream.once("connect", resolve);
      upstream.once("close", reject);
    });
    this.#sessions.set(client, username);
    client.once("close", () => {
      this.#sessions.delete(client);
      upstream.destroy();
    });
    upstream.once("close", () => client.end());
    upstream.write(head);
    const statements = new Statements();
    relay(client, upstream, (chunk) => statements.toServer(chunk));
    relay(upstream, client, (chunk) => statements.toClient(chunk));
  }
}

/** With backpressure; what cannot be read ends both. */
function relay(from: Socket, to: Socket, change: (chunk: Buffer) => Buffer[]): void {
  from.on("data", (chunk: Buffer) => {
    try {
      const parts = change(chunk);
      if (parts.length === 0 || to.destroyed) return;
      if (!to.write(parts.length === 1 ? parts[0]! : Buffer.concat(parts))) {
        from.pause();
        to.once("drain", () => from.resume());
      }
    } catch (error) {
      if (!(error instanceof TooManyStatementsError)) throw error;
      from.end(fatal("53400", error.message));
      to.destroy();
    }
  });
  from.once("end", () => to.end());
  from.resume();
}

/** The untyped first message of a client. @returns `null` if it left before */
async function readStartup(socket: Socket): Promise<Buffer | null> {
  return new Promise((resolve, reject) => {
    let kept = Buffer.alloc(0);
    const settle = (value: Buffer | null) => {
      socket.off("data", onData).off("close", onClose);
      socket.pause();
      resolve(value);
    };
    const onClose = () => settle(null);
    const onData = (chunk: Buffer) => {
      kept = Buffer.concat([kept, chunk]);
      if (kept.length < 8) return;
      const length = kept.readUInt32BE(0);
      if (length < 8 || length > mostStartupBytes) {
        reject(new Error("no message of the protocol"));
        return;
      }
      if (kept.length < length) return;
      const rest = kept.subarray(length);
      settle(kept.subarray(0, length));
      if (rest.length > 0) socket.unshift(rest);
    };
    socket.on("data", onData).once("close", onClose);
    socket.resume();
  });
}

/** What says that nothing special is wanted, which the pooler would refuse all the same. */
const asksForNothing = (name: string, value: string) =>
  (name === "replication" && /^(false|off|no|0)$/i.test(value)) ||
  (name === "options" && value.trim() === "");

function withDatabase(startup: Buffer, database: string, share: string) {
  const words = startup.toString("utf8", 8).split("\0");
  const kept: string[] = [];
  let username = "";
  for (let at = 0; at + 1 < words.length && words[at] !== ""; at += 2) {
    const [name, value] = [words[at]!, words[at + 1]!];
    if (name === "user") username = value;
    if (asksForNothing(name, value)) continue;
    kept.push(name, name === "database" && value === database ? share : value);
  }
  const body = Buffer.from([...kept, "", ""].join("\0"));
  const head = Buffer.alloc(8);
  head.writeUInt32BE(body.length + 8, 0);
  startup.copy(head, 4, 4, 8);
  return { head: Buffer.concat([head, body]), username };
}

function fatal(code: string, text: string): Buffer {
  const body = Buffer.from(["SFATAL", "VFATAL", `C${code}`, `M${text}`, "", ""].join("\0"));
  const head = Buffer.alloc(5);
  head.write("E");
  head.writeUInt32BE(body.length + 4, 1);
  return Buffer.concat([head, body]);
}
