import type { Socket } from "node:net";
import { z } from "zod";

const Message = z.object({
  QMP: z.unknown().optional(),
  return: z.unknown().optional(),
  error: z.object({ class: z.string(), desc: z.string() }).optional(),
  event: z.string().optional(),
});
type Message = z.output<typeof Message>;

/** QEMU refused a command. */
export class QmpError extends Error {}

/**
 * QEMU's control connection: lines of JSON, one command at a time.
 *
 * @see https://www.qemu.org/docs/master/interop/qmp-spec.html
 */
export class Qmp {
  readonly #socket: Socket;
  readonly #timeoutMs: number;
  #text = "";
  #waiting: { resolve: (message: Message) => void; reject: (error: Error) => void } | null = null;
  #queue: Message[] = [];

  private constructor(socket: Socket, timeoutMs: number) {
    this.#socket = socket;
    this.#timeoutMs = timeoutMs;
    socket.on("data", (chunk) => this.#receive(chunk.toString("utf8")));
    socket.on("error", () => socket.destroy());
    socket.on("end", () => socket.destroy());
    socket.on("close", () => this.#waiting?.reject(new Error("QEMU closed its control connection")));
  }

  /** @param timeoutMs most time for one answer */
  static async over(socket: Socket, timeoutMs: number): Promise<Qmp> {
    const qmp = new Qmp(socket, timeoutMs);
    try {
      await qmp.#next(); // The greeting.
      await qmp.run("qmp_capabilities");
      return qmp;
    } catch (error) {
      socket.destroy();
      throw error;
    }
  }

  /** @throws QmpError; Error when QEMU does not answer in time */
  async run(execute: string, args?: Record<string, unknown>): Promise<unknown> {
    this.#socket.write(`${JSON.stringify(args ? { execute, arguments: args } : { execute })}\n`);
    const { error, return: value } = await this.#next();
    if (error) throw new QmpError(`${execute}: ${error.desc}`);
    return value;
  }

  close(): void {
    this.#socket.destroy();
  }

  #receive(text: string): void {
    this.#text += text;
    const lines = this.#text.split("\n");
    this.#text = lines.pop() ?? "";
    for (const line of lines) {
      if (line.trim() === "") continue;
      const message = Message.parse(JSON.parse(line));
      if (message.event !== undefined) continue; // Told to every client; none is waited for here.
      if (this.#waiting) this.#waiting.resolve(message);
      else this.#queue.push(message);
      this.#waiting = null;
    }
  }

  #next(): Promise<Message> {
    const ready = this.#queue.shift();
    if (ready) return Promise.resolve(ready);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () => reject(new Error("QEMU does not answer on its control connection")),
        this.#timeoutMs,
      );
      this.#waiting = {
        resolve: (message) => {
          clearTimeout(timer);
          resolve(message);
        },
        reject: (error) => {
          clearTimeout(timer);
          reject(error);
        },
      };
      if (this.#socket.destroyed) this.#waiting.reject(new Error("QEMU closed its control connection"));
    });
  }
}
