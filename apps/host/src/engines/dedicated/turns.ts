/** Work under one name runs one at a time, in the order in which it came. */
export class Turns {
  readonly #last = new Map<string, Promise<unknown>>();

  run<T>(name: string, work: () => Promise<T> | T): Promise<T> {
    const before = this.#last.get(name) ?? Promise.resolve();
    // The failure of one turn belongs to its caller, not to the next in line.
    const turn = before.then(work, work);
    const settled = turn.then(
      () => undefined,
      () => undefined,
    );
    this.#last.set(name, settled);
    void settled.then(() => {
      if (this.#last.get(name) === settled) this.#last.delete(name);
    });
    return turn;
  }

  isBusy(name: string): boolean {
    return this.#last.has(name);
  }

  /** Resolves when everything that waits at this moment is done. */
  async idle(): Promise<void> {
    await Promise.all(this.#last.values());
  }
}
