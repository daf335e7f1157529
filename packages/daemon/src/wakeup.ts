/** A signal that a loop waits for: many calls of `wake` before the loop looks count once. */
export class Wakeup {
  #pending = false;
  #resolve: (() => void) | null = null;

  wake(): void {
    this.#pending = true;
    this.#resolve?.();
  }

  /** Resolves `true` on a wake-up, `false` after `timeoutMs` milliseconds or when aborted. */
  async wait(timeoutMs: number, signal?: AbortSignal): Promise<boolean> {
    if (!this.#pending && !signal?.aborted) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, timeoutMs);
        const done = () => {
          clearTimeout(timer);
          resolve();
        };
        this.#resolve = done;
        signal?.addEventListener("abort", done, { once: true });
      });
      this.#resolve = null;
    }
    const woken = this.#pending;
    this.#pending = false;
    return woken;
  }
}
