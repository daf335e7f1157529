import { randomBytes } from "node:crypto";
import type { Duplex } from "node:stream";
import { BrokenFrame, encodeFrame, FrameReader, frameTypes, maxPayloadBytes, type Frame } from "./frames.ts";
import { SessionStream, type StreamDoor } from "./session-stream.ts";

const maxStreams = 512;
const usualGreetEveryMs = 5_000;
/** No frame is longer, so whatever the guest still waits for of a former session is complete after it. */
const padding = Buffer.alloc(maxPayloadBytes + 64);

export interface SessionHandlers {
  /** A program of the box dials out. */
  readonly onOutbound: (stream: Duplex) => void;
  readonly onClose: () => void;
}

interface Pending {
  readonly resolve: (text: string) => void;
  readonly reject: (error: Error) => void;
}

/** The guest refused what it was asked for; the message is its own. */
export class GuestRefusal extends Error {}

/**
 * The host's end of the one byte stream of a microVM: connections to its agent, connections out of the
 * box, and a few calls to its first process. A new session ends the one before it.
 */
export class Session implements StreamDoor {
  readonly #port: Duplex;
  readonly #handlers: SessionHandlers;
  readonly #reader = new FrameReader();
  readonly #nonce = randomBytes(16);
  readonly #streams = new Map<number, SessionStream>();
  readonly #calls = new Map<number, Pending>();
  readonly #greeted = Promise.withResolvers<void>();
  #isGreeted = false;
  #nextStream = 1;
  #nextCall = 1;

  /** @param port just opened; the session owns it from now on */
  constructor(port: Duplex, handlers: SessionHandlers, greetEveryMs = usualGreetEveryMs) {
    this.#port = port;
    this.#handlers = handlers;
    this.#greeted.promise.catch(() => undefined); // Whoever waits for it learns it.
    port.on("data", (chunk: Buffer) => this.#receive(chunk));
    port.resume(); // Whoever dialled may have paused it, to leave nothing unread.
    port.on("error", () => port.destroy());
    port.once("end", () => port.destroy());
    port.once("close", () => this.#lost());
    this.#greet();
    const again = setInterval(() => {
      // A guest that stands still has not taken the last one yet.
      if (!this.#isGreeted && port.writableLength === 0) this.#greet();
    }, greetEveryMs);
    again.unref();
    const stop = () => clearInterval(again);
    this.#greeted.promise.then(stop, stop);
  }

  /**
   * Repeated until it is answered: a guest that hears late of the end of the session before forgets with it what
   * has come since. One that hears it twice answers twice, and both before anything that is sent afterwards.
   */
  #greet(): void {
    this.#port.write(padding);
    this.#port.write(encodeFrame(frameTypes.hello, 0, this.#nonce));
  }

  get isOpen(): boolean {
    return !this.#port.destroyed;
  }

  get isGreeted(): boolean {
    return this.#isGreeted;
  }

  /** Resolves when the guest's first process answered. @throws Error when the stream closes before */
  greeted(signal: AbortSignal): Promise<void> {
    return within(this.#greeted.promise, signal);
  }

  /** A connection to the agent. @throws Error when too many are open */
  open(): SessionStream {
    if (!this.#isGreeted) throw new Error("the guest has not answered yet");
    if (this.#streams.size >= maxStreams) throw new Error(`more than ${maxStreams} connections are open`);
    while (this.#streams.has(this.#nextStream)) this.#nextStream += 2;
    const id = this.#nextStream;
    this.#nextStream = id >= 0xffff_fff0 ? 1 : id + 2;
    this.#send(frameTypes.open, id);
    return this.#begin(id);
  }

  /**
   * A call to the guest's first process.
   *
   * @returns what it says besides "ok"
   * @throws GuestRefusal with its words; Error when the stream closes or `signal` aborts
   */
  call(type: "setup" | "freeze" | "thaw" | "stats", payload: Buffer, signal: AbortSignal): Promise<string> {
    if (!this.#isGreeted || !this.isOpen) return Promise.reject(new Error("the guest does not answer"));
    const id = this.#nextCall++;
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    this.#calls.set(id, { resolve, reject });
    this.#send(frameTypes[type], id, payload);
    return within(promise, signal).finally(() => this.#calls.delete(id));
  }

  /** Pieces of the settings that the next `setup` applies. */
  sendSettings(settings: Buffer): void {
    for (let from = 0; from < settings.length; from += maxPayloadBytes) {
      this.#send(frameTypes.part, 0, settings.subarray(from, from + maxPayloadBytes));
    }
  }

  setClock(): void {
    if (this.#isGreeted && this.isOpen) this.#send(frameTypes.clock, 0, clock());
  }

  close(): void {
    this.#port.destroy();
  }

  data(id: number, payload: Buffer, taken: () => void): void {
    if (this.#port.destroyed) return taken();
    // Each write waits for the one before it, so that the guest's own pace holds back every sender.
    this.#port.write(encodeFrame(frameTypes.data, id, payload), () => taken());
  }

  end(id: number): void {
    this.#send(frameTypes.end, id);
    this.#forgetIfOver(id);
  }

  reset(id: number): void {
    if (this.#streams.delete(id)) this.#send(frameTypes.reset, id);
  }

  credit(id: number, bytes: number): void {
    const payload = Buffer.alloc(4);
    payload.writeUInt32LE(bytes);
    this.#send(frameTypes.credit, id, payload);
  }

  #send(type: number, id: number, payload?: Buffer): void {
    if (!this.#port.destroyed) this.#port.write(encodeFrame(type, id, payload));
  }

  #begin(id: number): SessionStream {
    const stream = new SessionStream(id, this);
    this.#streams.set(id, stream);
    stream.once("close", () => this.#streams.delete(id));
    return stream;
  }

  #forgetIfOver(id: number): void {
    const stream = this.#streams.get(id);
    if (stream?.readableEnded && stream.writableEnded) this.#streams.delete(id);
  }

  #receive(chunk: Buffer): void {
    try {
      if (!this.#isGreeted) {
        if (!this.#reader.skipToHello(chunk, this.#nonce)) return;
        this.#isGreeted = true;
        this.#greeted.resolve();
        chunk = Buffer.alloc(0);
      }
      for (const frame of this.#reader.read(chunk)) this.#handle(frame);
    } catch (error) {
      if (!(error instanceof BrokenFrame)) throw error;
      this.#port.destroy();
    }
  }

  #handle({ type, id, payload }: Frame): void {
    if (type === frameTypes.reply) {
      const text = payload.toString("utf8");
      const call = this.#calls.get(id);
      if (text.startsWith("ok ")) call?.resolve(text.slice(3));
      else call?.reject(new GuestRefusal(text.replace(/^error /, "")));
      return;
    }
    if (type === frameTypes.open) {
      if (id % 2 !== 0 || this.#streams.has(id) || this.#streams.size >= maxStreams) {
        this.#send(frameTypes.reset, id);
        return;
      }
      const stream = this.#begin(id);
      stream.on("error", () => stream.destroy());
      this.#handlers.onOutbound(stream);
      return;
    }
    const stream = this.#streams.get(id);
    if (!stream) return; // Closed here while the frame was on its way.
    if (type === frameTypes.data) stream.receive(payload);
    else if (type === frameTypes.end) stream.receiveEnd();
    else if (type === frameTypes.credit && payload.length === 4) stream.receiveCredit(payload.readUInt32LE());
    else if (type === frameTypes.reset) {
      this.#streams.delete(id);
      stream.receiveReset(new Error("the box closed the connection"));
    }
  }

  #lost(): void {
    const reason = new Error("the stream to the guest closed");
    this.#greeted.reject(reason);
    for (const stream of this.#streams.values()) stream.receiveReset(reason);
    this.#streams.clear();
    for (const { reject } of this.#calls.values()) reject(reason);
    this.#handlers.onClose();
  }
}

/** Microseconds since the epoch, as the guest reads them. */
export function clock(): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(Date.now()) * 1000n);
  return bytes;
}

async function within<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted();
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const onAbort = () => reject(signal.reason as Error);
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}
