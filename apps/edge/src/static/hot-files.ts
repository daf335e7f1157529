import { readFile } from "node:fs/promises";

const MAX_FILE_BYTES = 128 * 1024;
const MAX_BYTES = 64 * 1024 * 1024;

/** Small files that were asked for lately, by their content: what a key names never changes. */
export class HotFiles {
  readonly #files = new Map<string, Buffer>();
  readonly #maxBytes: number;
  #bytes = 0;

  constructor(maxBytes = MAX_BYTES) {
    this.#maxBytes = maxBytes;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get(key: string): Buffer | null {
    const content = this.#files.get(key);
    if (!content) return null;
    this.#files.delete(key);
    this.#files.set(key, content);
    return content;
  }

  /** Null: too large to be kept. */
  async load(key: string, path: string, size: number): Promise<Buffer | null> {
    if (size > MAX_FILE_BYTES) return null;
    const content = await readFile(path);
    if (!this.#files.has(key)) this.#bytes += content.length;
    this.#files.set(key, content);
    for (const [oldest, { length }] of this.#files) {
      if (this.#bytes <= this.#maxBytes) break;
      this.#files.delete(oldest);
      this.#bytes -= length;
    }
    return content;
  }
}
