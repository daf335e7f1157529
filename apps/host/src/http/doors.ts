import { createHash } from "node:crypto";
import { chmod, mkdir, rm } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import type { Log } from "@platform/daemon";
import { HostError, type Door } from "@platform/host-api";
import type { Boxes } from "../boxes/index.ts";
import { dialPort } from "./tunnel.ts";
import { splice } from "./splice.ts";

const maxDoors = 2_000;

interface Entry {
  readonly server: Server;
  readonly path: string;
  readonly open: Set<Socket>;
}

/**
 * Ports of boxes as unix sockets that only this machine's administrator can open, for a proxy that
 * speaks no CONNECT. A connection leads where CONNECT would, or closes at once.
 */
export class Doors {
  readonly #folder: string;
  readonly #boxes: Boxes;
  readonly #log: Log;
  readonly #entries = new Map<string, Promise<Entry>>();

  private constructor(folder: string, boxes: Boxes, log: Log) {
    this.#folder = folder;
    this.#boxes = boxes;
    this.#log = log;
  }

  /** @param folder its own: what a former host left in it goes */
  static async open(folder: string, boxes: Boxes, log: Log): Promise<Doors> {
    await rm(folder, { recursive: true, force: true });
    await mkdir(folder, { recursive: true, mode: 0o700 });
    return new Doors(folder, boxes, log);
  }

  /** @throws HostError `NOT_FOUND` without such a box, `CONFLICT` when there are too many doors */
  async at(boxKey: string, port: number): Promise<Door> {
    this.#boxes.get(boxKey);
    const key = `${boxKey}:${port}`;
    let entry = this.#entries.get(key);
    if (!entry) {
      if (this.#entries.size >= maxDoors)
        throw new HostError("CONFLICT", 409, `There are ${maxDoors} doors already.`);
      entry = this.#listen(key, boxKey, port);
      this.#entries.set(key, entry);
      entry.catch(() => this.#entries.delete(key));
    }
    return { path: (await entry).path };
  }

  async close(): Promise<void> {
    for (const key of [...this.#entries.keys()]) await this.#shut(key);
  }

  async #listen(key: string, boxKey: string, port: number): Promise<Entry> {
    // Short: the path of a unix socket has 107 bytes at most.
    const name = createHash("sha256").update(key).digest("hex").slice(0, 24);
    const path = join(this.#folder, name);
    const open = new Set<Socket>();
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (client) => {
      open.add(client);
      client.once("close", () => open.delete(client));
      client.on("error", () => client.destroy());
      this.#lead(boxKey, port, client).catch((error: unknown) => {
        client.destroy();
        this.#log.debug({ boxKey, port, err: error }, "a door led nowhere");
        // The box is gone for good, and so is its door.
        if (error instanceof HostError && error.code === "NOT_FOUND") void this.#shut(key);
      });
    });
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(path, () => resolve());
    });
    await chmod(path, 0o600);
    return { server, path, open };
  }

  async #lead(boxKey: string, port: number, client: Socket): Promise<void> {
    const { box, guest, rest } = await dialPort(this.#boxes, { key: boxKey, reach: "box", port }, client);
    if (!guest) return;
    if (rest.length > 0) client.write(rest);
    splice(client, guest, box.paces);
  }

  async #shut(key: string): Promise<void> {
    const entry = await this.#entries.get(key)?.catch(() => null);
    this.#entries.delete(key);
    if (!entry) return;
    const closed = new Promise<void>((resolve) => entry.server.close(() => resolve()));
    for (const client of entry.open) client.destroy();
    await closed;
  }
}
