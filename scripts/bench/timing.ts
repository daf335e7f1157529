import { cpus, totalmem } from "node:os";

export interface Summary {
  readonly count: number;
  /** Milliseconds. */
  readonly p50: number;
  readonly p95: number;
}

export interface Row {
  readonly name: string;
  readonly ours: Summary;
  readonly peerName: string;
  readonly peer: Summary;
}

/** @throws RangeError without samples */
export function summarise(samples: readonly number[]): Summary {
  if (samples.length === 0) throw new RangeError("nothing was measured");
  const sorted = [...samples].sort((a, b) => a - b);
  const at = (part: number) => sorted[Math.min(sorted.length - 1, Math.ceil(part * sorted.length) - 1)]!;
  return { count: samples.length, p50: at(0.5), p95: at(0.95) };
}

/** @returns milliseconds that `work` took */
export async function timed(work: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now();
  await work();
  return performance.now() - startedAt;
}

const ms = (value: number) => (value < 10 ? value.toFixed(1) : String(Math.round(value)));

/** Markdown. */
export function table(rows: readonly Row[]): string {
  const lines = rows.map(({ name, ours, peerName, peer }) =>
    [
      name,
      ours.count,
      ms(ours.p50),
      ms(ours.p95),
      peerName,
      ms(peer.p50),
      ms(peer.p95),
      (ours.p50 / peer.p50).toFixed(1),
    ].join(" | "),
  );
  return [
    "| step | n | P50 ms | P95 ms | the bare peer | P50 ms | P95 ms | ratio of P50 |",
    "| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: |",
    ...lines.map((line) => `| ${line} |`),
  ].join("\n");
}

export const machine = () =>
  `${cpus().length} × ${cpus()[0]?.model.trim() ?? "CPU"}, ${Math.round(totalmem() / 2 ** 30)} GiB, Node ${process.version}`;

/** The document with what lies between the comments of this name replaced. */
export function writeSection(text: string, name: string, content: string): string {
  const [begin, end] = [`<!-- ${name} -->`, `<!-- /${name} -->`];
  const [before, rest] = text.split(begin);
  if (before === undefined || rest === undefined) throw new Error(`the document has no place for ${name}`);
  return `${before}${begin}\n\n${content}\n\n${end}${rest.split(end)[1] ?? ""}`;
}
