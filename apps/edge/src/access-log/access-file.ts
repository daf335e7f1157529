import { createWriteStream, type WriteStream } from "node:fs";
import { mkdir, rename, stat } from "node:fs/promises";
import { dirname } from "node:path";
import type { Log } from "@platform/daemon";

/** Then the file is put aside and the one put aside before is gone. */
const MAX_FILE_BYTES = 64 * 1024 * 1024;
const MAX_WAITING_BYTES = 32 * 1024 * 1024;
const FLUSH_MS = 500;

export interface AccessFileOptions {
  readonly path: string;
  readonly log: Log;
  readonly maxFileBytes?: number;
}

/**
 * One JSON object per line and request, with the release that answered and the id that the app got as
 * `x-request-id`. Two files at most. Never in the way of traffic: lines that the disk does not take are
 * dropped and counted.
 */
export class AccessFile {
  readonly #options: AccessFileOptions;
  readonly #maxFileBytes: number;
  #stream: WriteStream | null = null;
  #bytes = 0;
  #waiting: string[] = [];
  #waitingBytes = 0;
  #dropped = 0;
  #timer: NodeJS.Timeout | null = null;
  #flushing: Promise<void> = Promise.resolve();

  constructor(options: AccessFileOptions) {
    this.#options = options;
    this.#maxFileBytes = options.maxFileBytes ?? MAX_FILE_BYTES;
  }

  get dropped(): number {
    return this.#dropped;
  }

  start(): void {
    this.#timer ??= setInterval(() => void this.flush(), FLUSH_MS).unref();
  }

  async stop(): Promise<void> {
    if (this.#timer) clearInterval(this.#timer);
    await this.flush();
    await this.#close();
  }

  add(line: Readonly<Record<string, unknown>>): void {
    this.addText(`${JSON.stringify(line)}\n`);
  }

  /** @param text one JSON object and a line feed */
  addText(text: string): void {
    if (this.#waitingBytes + text.length > MAX_WAITING_BYTES) {
      this.#dropped++;
      return;
    }
    this.#waiting.push(text);
    this.#waitingBytes += text.length;
  }

  flush(): Promise<void> {
    this.#flushing = this.#flushing.then(() => this.#write());
    return this.#flushing;
  }

  async #write(): Promise<void> {
    if (this.#waiting.length === 0) return;
    const lines = this.#waiting;
    const text = lines.join("");
    this.#waiting = [];
    this.#waitingBytes = 0;
    try {
      if (this.#stream && this.#bytes + text.length > this.#maxFileBytes) await this.#rotate();
      const stream = (this.#stream ??= await this.#open());
      this.#bytes += Buffer.byteLength(text);
      await new Promise<void>((resolve, reject) =>
        stream.write(text, (error) => (error ? reject(error) : resolve())),
      );
    } catch (error) {
      this.#dropped += lines.length;
      this.#options.log.warn({ err: error, dropped: this.#dropped }, "the access log could not be written");
      await this.#close();
    }
  }

  async #open(): Promise<WriteStream> {
    const { path } = this.#options;
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    this.#bytes = await stat(path).then(
      ({ size }) => size,
      () => 0, // Not there yet.
    );
    const stream = createWriteStream(path, { flags: "a", mode: 0o600 });
    // The callback of the write that failed tells.
    stream.on("error", () => undefined);
    return stream;
  }

  async #rotate(): Promise<void> {
    await this.#close();
    await rename(this.#options.path, `${this.#options.path}.1`);
  }

  async #close(): Promise<void> {
    const stream = this.#stream;
    this.#stream = null;
    if (stream)
      await new Promise<void>((resolve) => stream.end(() => resolve()).once("error", () => resolve()));
  }
}
