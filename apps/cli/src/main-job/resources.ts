import { ApiError, type Client } from "@platform/sdk";

type Kind = "sandbox" | "deployment" | "database";

/** What the run made, so that it can take it away again, newest first. */
export class Resources {
  readonly #client: Client;
  readonly #made: { kind: Kind; id: string }[] = [];

  constructor(client: Client) {
    this.#client = client;
  }

  made(kind: Kind, id: string): void {
    this.#made.push({ kind, id });
  }

  async remove(kind: Kind, id: string): Promise<void> {
    const of = {
      sandbox: this.#client.sandboxes,
      deployment: this.#client.deployments,
      database: this.#client.databases,
    };
    try {
      await of[kind].delete(id);
    } catch (error) {
      // Gone already is what was asked for.
      if (!(error instanceof ApiError) || error.status !== 404) throw error;
    }
    const at = this.#made.findIndex((entry) => entry.id === id);
    if (at >= 0) this.#made.splice(at, 1);
  }

  /** @returns what could not be removed, with why */
  async removeAll(): Promise<string[]> {
    const left: string[] = [];
    for (const { kind, id } of [...this.#made].reverse()) {
      try {
        await this.remove(kind, id);
      } catch (error) {
        left.push(`${kind} ${id}: ${error instanceof Error ? error.message : String(error)}`);
      }
    }
    return left;
  }
}
