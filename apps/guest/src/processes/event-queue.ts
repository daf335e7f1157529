import type { OutputName, Program, ProgramEnd, Reader } from "./program.ts";

export type QueuedEvent =
  | { readonly type: "output"; readonly name: OutputName; readonly data: Buffer }
  | { readonly type: "end"; readonly end: ProgramEnd }
  | { readonly type: "idle" };

/** Output kept for one reader before the program is held, in bytes. */
const HIGH_WATER_BYTES = 1024 * 1024;

/** A reader that turns a program's output into events to be pulled, with a bound on what waits. */
export class EventQueue implements Reader {
  readonly #program: Program;
  readonly #stop: () => void;
  readonly #signal: AbortSignal;
  #events: QueuedEvent[] = [];
  #bytes = 0;
  #wake: () => void = () => undefined;

  constructor(program: Program, signal: AbortSignal) {
    this.#program = program;
    this.#signal = signal;
    signal.addEventListener("abort", () => this.#wake(), { once: true });
    this.#stop = program.read(this);
  }

  output(name: OutputName, data: Buffer): boolean {
    this.#events.push({ type: "output", name, data });
    this.#bytes += data.length;
    this.#wake();
    return this.#bytes < HIGH_WATER_BYTES;
  }

  end(end: ProgramEnd): void {
    this.#events.push({ type: "end", end });
    this.#wake();
  }

  /** Ends after the program's end, or when the signal aborts. @param idleMs silence after which `idle` comes */
  async *events(idleMs: number): AsyncGenerator<QueuedEvent> {
    try {
      while (!this.#signal.aborted) {
        const batch = this.#take();
        for (const event of batch) {
          yield event;
          if (event.type === "end") return;
        }
        if (batch.length === 0 && (await this.#isIdle(idleMs))) yield { type: "idle" };
      }
    } finally {
      this.#stop();
    }
  }

  #take(): QueuedEvent[] {
    const batch = this.#events;
    if (batch.length === 0) return batch;
    this.#events = [];
    this.#bytes = 0;
    this.#program.resume(this);
    return batch;
  }

  async #isIdle(idleMs: number): Promise<boolean> {
    if (this.#events.length > 0 || this.#signal.aborted) return false;
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(true), idleMs);
      this.#wake = () => {
        clearTimeout(timer);
        resolve(false);
      };
    });
  }
}
