import { appendFile, readFile } from "node:fs/promises";
import type { ImageLogLine } from "@platform/host-api";

const maxLines = 20_000;
const maxLineCharacters = 4_096;

/** What one build printed, on disk; bounded, so that a flood costs no more than its own end. */
export class BuildLog {
  readonly #path: string;
  #next = 1;
  #pending: ImageLogLine[] = [];
  #writing: Promise<void> = Promise.resolve();

  constructor(path: string) {
    this.#path = path;
  }

  /** Goes on after the last line of an earlier run. */
  async open(): Promise<void> {
    this.#next = ((await this.#stored()).at(-1)?.seq ?? 0) + 1;
  }

  add(stream: ImageLogLine["stream"], text: string): void {
    if (this.#next > maxLines) return;
    const line = this.#next === maxLines ? "the log is full; what follows is left out" : text;
    this.#pending.push({
      seq: this.#next++,
      at: new Date().toISOString(),
      stream: line === text ? stream : "system",
      line: line.slice(0, maxLineCharacters),
    });
    if (this.#pending.length === 1) this.#writing = this.#writing.then(() => this.#flush());
  }

  async flush(): Promise<void> {
    await this.#writing;
  }

  async read(after: number, limit: number): Promise<ImageLogLine[]> {
    await this.flush();
    return (await this.#stored()).filter(({ seq }) => seq > after).slice(0, limit);
  }

  async #flush(): Promise<void> {
    const lines = this.#pending;
    this.#pending = [];
    await appendFile(this.#path, lines.map((line) => `${JSON.stringify(line)}\n`).join(""), { mode: 0o600 });
  }

  async #stored(): Promise<ImageLogLine[]> {
    let text: string;
    try {
      text = await readFile(this.#path, "utf8");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
      throw error;
    }
    // A line that a crash cut off is left out.
    return text.split("\n").flatMap((line) => {
      try {
        return line === "" ? [] : [JSON.parse(line) as ImageLogLine];
      } catch {
        return [];
      }
    });
  }
}
