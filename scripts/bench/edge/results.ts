import type { Measured } from "./wrk.ts";

/** What a row of the table is compared with. */
const aims: readonly { what: string; of: string; by: string; aim: number; row: RegExp }[] = [
  {
    what: "HAProxy data plane ÷ bare HAProxy",
    of: "haproxy edge",
    by: "haproxy",
    aim: 0.9,
    row: /^JSON, 10 /,
  },
  { what: "Node edge ÷ Caddy", of: "node edge", by: "caddy", aim: 2, row: /^JSON, 10 / },
  {
    what: "static ÷ nginx, HAProxy data plane",
    of: "haproxy edge",
    by: "nginx",
    aim: 0.7,
    row: /^static file, 9/,
  },
  { what: "static ÷ nginx, Node edge", of: "node edge", by: "nginx", aim: 0.7, row: /^static file, 9/ },
];

export class Results {
  readonly #rows = new Map<string, Map<string, Measured>>();
  readonly #times = new Map<string, number[]>();

  add(row: string, server: string, measured: Measured): void {
    const known = this.#rows.get(row) ?? new Map<string, Measured>();
    known.set(server, measured);
    this.#rows.set(row, known);
    console.error(`${row} | ${server} | ${Math.round(measured.perSecond)}/s, ${measured.failed} failed`);
  }

  addTimes(row: string, ms: number[]): void {
    this.#times.set(
      row,
      ms.toSorted((a, b) => a - b),
    );
  }

  text({ command, machine }: { command: string; machine: string }): string {
    const lines = [
      `\`${command}\` on ${new Date().toISOString().slice(0, 10)}, ${machine}:`,
      "",
      "| what | server | requests/s | P50 ms | P99 ms | failed |",
      "| --- | --- | ---: | ---: | ---: | ---: |",
    ];
    for (const [row, servers] of this.#rows)
      for (const [server, { perSecond, p50Ms, p99Ms, failed }] of servers)
        lines.push(
          `| ${row} | ${server} | ${Math.round(perSecond)} | ${p50Ms.toFixed(1)} | ${p99Ms.toFixed(1)} | ${failed} |`,
        );
    lines.push("", "| aim | wanted | measured |", "| --- | ---: | ---: |");
    for (const { what, of, by, aim, row } of aims) {
      const servers = [...this.#rows].find(([name]) => row.test(name))?.[1];
      const ratio = (servers?.get(of)?.perSecond ?? NaN) / (servers?.get(by)?.perSecond ?? NaN);
      lines.push(`| ${what} | ≥ ${aim} | ${ratio.toFixed(2)} |`);
    }
    const json = [...this.#rows].filter(([name]) => name.startsWith("JSON"));
    for (const server of ["node edge", "haproxy edge"]) {
      const [small, large] = json.map(([, servers]) => servers.get(server)?.perSecond ?? NaN);
      lines.push(`| cost of all hosts ÷ cost of 10, ${server} | ≤ 1.05 | ${(small! / large!).toFixed(2)} |`);
    }
    for (const [row, ms] of this.#times) {
      const at = (part: number) => ms[Math.min(ms.length - 1, Math.floor(ms.length * part))]!;
      lines.push(
        `| ${row}, P50, P99 of ${ms.length} | ≤ 250 ms at P99 | ${Math.round(at(0.5))}, ${Math.round(at(0.99))} ms |`,
      );
    }
    return lines.join("\n");
  }
}
