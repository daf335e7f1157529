import { Duplex } from "node:stream";
import { maxPayloadBytes, streamWindow } from "./frames.ts";

/** What a stream needs of its session. */
export interface StreamDoor {
  data(id: number, payload: Buffer, taken: () => void): void;
  end(id: number): void;
  reset(id: number): void;
  credit(id: number, bytes: number): void;
}

const creditStep = streamWindow / 4;

/** One connection across the border of a microVM; has what Node's HTTP client asks of a socket. */
export class SessionStream extends Duplex {
  readonly id: number;
  readonly #door: StreamDoor;
  #credit = streamWindow;
  /** Bytes that came and were not yet handed on, oldest first. */
  #unread: Buffer[] = [];
  #wantsData = false;
  #consumed = 0;
  #hasEnded = false;
  #waiting: (() => void) | null = null;
  #isOver = false;

  constructor(id: number, door: StreamDoor) {
    super({ allowHalfOpen: true });
    this.id = id;
    this.#door = door;
  }

  /** From the session: bytes of the guest. */
  receive(payload: Buffer): void {
    this.#unread.push(payload);
    this.#handOn();
  }

  receiveEnd(): void {
    this.#hasEnded = true;
    this.#handOn();
  }

  receiveCredit(bytes: number): void {
    this.#credit += bytes;
    const waiting = this.#waiting;
    this.#waiting = null;
    waiting?.();
  }

  /** From the session: the stream is over; nobody need be told. */
  receiveReset(reason: Error): void {
    this.#isOver = true;
    this.destroy(reason);
  }

  override _read(): void {
    this.#wantsData = true;
    this.#handOn();
  }

  #handOn(): void {
    while (this.#wantsData) {
      const payload = this.#unread.shift();
      if (!payload) break;
      this.#consumed += payload.length;
      this.#wantsData = this.push(payload);
    }
    if (this.#consumed >= creditStep && !this.#isOver) {
      this.#door.credit(this.id, this.#consumed);
      this.#consumed = 0;
    }
    if (this.#hasEnded && this.#unread.length === 0) this.push(null);
  }

  override _write(chunk: Buffer, _encoding: string, done: (error?: Error | null) => void): void {
    const send = (from: number) => {
      if (this.destroyed) return done(new Error("the connection into the box is closed"));
      const length = Math.min(chunk.length - from, maxPayloadBytes, this.#credit);
      if (length === 0) {
        this.#waiting = () => send(from);
        return;
      }
      this.#credit -= length;
      const isLast = from + length >= chunk.length;
      const next = () => (isLast ? done() : send(from + length));
      this.#door.data(this.id, chunk.subarray(from, from + length), next);
    };
    if (chunk.length === 0) done();
    else send(0);
  }

  override _final(done: () => void): void {
    if (!this.#isOver) this.#door.end(this.id);
    done();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    const isClean = this.readableEnded && this.writableFinished;
    if (!this.#isOver) {
      if (!isClean) this.#door.reset(this.id);
      this.#isOver = true;
    }
    const waiting = this.#waiting;
    this.#waiting = null;
    waiting?.();
    this.#unread = [];
    done(error);
  }

  // A connection in memory of one machine: no packets to delay, no keep-alive, no idle limit of its own.
  setKeepAlive(): this {
    return this;
  }
  setNoDelay(): this {
    return this;
  }
  setTimeout(): this {
    return this;
  }
  ref(): this {
    return this;
  }
  unref(): this {
    return this;
  }
}
