import { brand } from "./brand.ts";
import { toFailure, type ExitCode } from "./failure.ts";

export interface Streams {
  readonly stdout: NodeJS.WritableStream;
  readonly stderr: NodeJS.WritableStream & { readonly isTTY?: boolean };
}

export interface Step {
  /** Replaces what is said beside the step. */
  note(text: string): void;
  done(text?: string): void;
}

const frames = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

/** In the brand's colour, on terminals that draw any. */
function painted(text: string): string {
  const parts = /^#(..)(..)(..)$/.exec(brand.color ?? "")?.slice(1);
  if (!parts) return text;
  return `\u001b[38;2;${parts.map((part) => Number.parseInt(part, 16)).join(";")}m${text}\u001b[39m`;
}

/** Results go to stdout, everything else to stderr, so that a pipe gets results only. */
export class Output {
  readonly isJson: boolean;
  readonly #streams: Streams;
  #spinner: NodeJS.Timeout | null = null;

  constructor(streams: Streams, isJson: boolean) {
    this.#streams = streams;
    this.isJson = isJson;
  }

  /** With --json the value as one JSON document, else the lines for people. */
  result(value: unknown, lines: string | readonly string[]): void {
    this.#stopSpinner();
    const text = this.isJson ? JSON.stringify(value, null, 2) : [lines].flat().join("\n");
    if (text !== "") this.#streams.stdout.write(`${text}\n`);
  }

  raw(text: string | Uint8Array, stream: "stdout" | "stderr" = "stdout"): void {
    this.#streams[stream].write(text);
  }

  say(text: string): void {
    this.#streams.stderr.write(`${text}\n`);
  }

  /** A spinner on a terminal, else one line when done; silent with --json. */
  step(label: string): Step {
    const startedAt = performance.now();
    let text = label;
    this.#stopSpinner();
    if (this.#streams.stderr.isTTY && !this.isJson) {
      let frame = 0;
      const draw = () =>
        this.#streams.stderr.write(`\r\u001b[K${painted(frames[frame++ % frames.length]!)} ${text}`);
      draw();
      this.#spinner = setInterval(draw, 100);
    }
    return {
      note: (note) => {
        text = `${label}: ${note}`;
      },
      done: (message) => {
        this.#stopSpinner();
        if (!this.isJson) this.say(`✓ ${message ?? label} (${formatMs(performance.now() - startedAt)})`);
      },
    };
  }

  fail(error: unknown, debug: boolean): ExitCode {
    this.#stopSpinner();
    const failure = toFailure(error);
    if (this.isJson) {
      const { code, message, why, remedy, requestId } = failure;
      const body = { error: { code, message, why, remedy, request_id: requestId } };
      this.#streams.stdout.write(`${JSON.stringify(body, null, 2)}\n`);
    } else {
      this.say(`✗ ${failure.code}: ${failure.message}`);
      for (const reason of failure.why) this.say(`  why: ${reason}`);
      this.say(`  do:  ${failure.remedy}`);
      if (failure.requestId) this.say(`  request: ${failure.requestId}`);
    }
    if (debug && error instanceof Error) this.say(error.stack ?? "");
    return failure.exitCode;
  }

  #stopSpinner(): void {
    if (!this.#spinner) return;
    clearInterval(this.#spinner);
    this.#spinner = null;
    this.#streams.stderr.write("\r\u001b[K");
  }
}

export const formatMs = (ms: number): string =>
  ms < 10_000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;

/** Columns padded to their widest cell; the last one is left as it is. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const all = [head, ...rows];
  const widths = head.map((_, column) => Math.max(...all.map((row) => row[column]?.length ?? 0)));
  return all.map((row) =>
    row
      .map((cell, column) => (column === row.length - 1 ? cell : cell.padEnd(widths[column] ?? 0)))
      .join("  ")
      .trimEnd(),
  );
}
