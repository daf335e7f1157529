type Closer = () => Promise<unknown> | void;
const closers: Closer[] = [];
let stopping: Promise<void> | null = null;

/** Registers work for an orderly stop; the last registered runs first. */
export function onShutdown(close: Closer): void {
  closers.push(close);
}

async function closeAll(): Promise<void> {
  for (const close of closers.reverse()) {
    try {
      await close();
    } catch (error) {
      process.stderr.write(
        `shutdown step failed: ${error instanceof Error ? error.message : String(error)}\n`,
      );
    }
  }
}

/**
 * Runs until SIGINT or SIGTERM, then closes what was registered and exits 0. A second signal
 * exits at once with 130. With `parent: true` it also stops when the parent's IPC channel closes,
 * so that no program outlives the supervisor that started it.
 *
 * @param graceMs most time that closing may take, in milliseconds
 */
export function runUntilSignal(options: { graceMs?: number; parent?: boolean } = {}): void {
  const stop = () => {
    if (stopping) process.exit(130);
    const timer = setTimeout(() => process.exit(1), options.graceMs ?? 10_000);
    timer.unref();
    stopping = closeAll();
    void stopping.then(() => process.exit(0));
  };
  process.on("SIGINT", stop);
  process.on("SIGTERM", stop);
  if (options.parent && process.channel) {
    process.on("disconnect", stop);
  }
}
