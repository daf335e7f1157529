import type { QueryRequest } from "@platform/host-api";

/** Keeps rows while they fit, and says which limit the first one did not. */
export class RowBudget {
  readonly rows: unknown[][] = [];
  cutBy: "rows" | "bytes" | null = null;
  readonly #maxRows: number;
  #bytesLeft: number;

  constructor({ maxRows, maxBytes }: Pick<QueryRequest, "maxRows" | "maxBytes">) {
    this.#maxRows = maxRows;
    this.#bytesLeft = maxBytes;
  }

  get rowsLeft(): number {
    return this.#maxRows - this.rows.length;
  }

  /** @returns false once something did not fit */
  take(rows: readonly unknown[][]): boolean {
    for (const row of rows) {
      this.#bytesLeft -= Buffer.byteLength(JSON.stringify(row));
      if (this.rowsLeft === 0) this.cutBy = "rows";
      else if (this.#bytesLeft < 0) this.cutBy = "bytes";
      if (this.cutBy) return false;
      this.rows.push(row);
    }
    return true;
  }
}
