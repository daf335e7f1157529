import { connect } from "node:net";
import { open } from "node:fs/promises";
import { constants } from "node:fs";
import type { Duplex } from "node:stream";
import type { BoxFolders } from "../driver.ts";
import { Session } from "./session.ts";
import type { Vmm } from "./vmm.ts";

/** How often a guest's clock is set, in milliseconds: an emulated one drifts. */
const clockEveryMs = 20_000;

interface Entry {
  readonly session: Promise<Session>;
  open: Session | null;
  clockSetAt: number;
}

/** The sessions with the guests of one daemon, one a box; a lost one is opened again when it is asked for. */
export class Sessions {
  readonly #vmm: Vmm;
  readonly #entries = new Map<string, Entry>();

  constructor(vmm: Vmm) {
    this.#vmm = vmm;
  }

  /** The box's session; its guest may not have answered yet. @throws Error when the monitor does not answer */
  get(key: string, folders: BoxFolders): Promise<Session> {
    const known = this.#entries.get(key);
    if (known) return known.session;
    const entry: Entry = { session: this.#open(key, folders), open: null, clockSetAt: Date.now() };
    this.#entries.set(key, entry);
    entry.session.then(
      (session) => {
        entry.open = session;
        if (!session.isOpen) this.#forget(key, entry);
      },
      () => this.#forget(key, entry),
    );
    return entry.session;
  }

  /** Keeps the stream open, so that programs of the box can dial out, and the guest's clock right. */
  tend(key: string, folders: BoxFolders): void {
    const entry = this.#entries.get(key);
    if (!entry) {
      this.get(key, folders).catch(() => undefined); // The next look tries again.
      return;
    }
    if (Date.now() - entry.clockSetAt < clockEveryMs) return;
    entry.clockSetAt = Date.now();
    entry.open?.setClock();
  }

  close(key: string): void {
    const entry = this.#entries.get(key);
    if (!entry) return;
    this.#entries.delete(key);
    entry.session.then((session) => session.close()).catch(() => undefined); // It never opened.
  }

  async #open(key: string, folders: BoxFolders): Promise<Session> {
    const port = await this.#vmm.dial(folders);
    return new Session(port, {
      onOutbound: (stream) => void connectOutbound(stream, folders),
      onClose: () => {
        const entry = this.#entries.get(key);
        if (entry) this.#forget(key, entry);
      },
    });
  }

  #forget(key: string, entry: Entry): void {
    if (this.#entries.get(key) === entry) this.#entries.delete(key);
  }
}

/** Joins a connection out of the box to the host's proxy for it. */
async function connectOutbound(stream: Duplex, folders: BoxFolders): Promise<void> {
  let folder;
  try {
    // By handle: a socket's path has at most 107 characters.
    folder = await open(folders.run, constants.O_RDONLY | constants.O_DIRECTORY);
    const proxy = connect({ path: `/proc/self/fd/${folder.fd}/outbound.sock`, allowHalfOpen: true });
    await new Promise<void>((resolve, reject) => proxy.once("connect", resolve).once("error", reject));
    proxy.on("error", () => proxy.destroy());
    join(stream, proxy);
    join(proxy, stream);
  } catch {
    stream.destroy(); // The proxy is closed: the box is ending, or its daemon.
  } finally {
    await folder?.close();
  }
}

function join(from: Duplex, to: Duplex): void {
  from.pipe(to);
  from.on("error", () => to.destroy());
  from.once("close", () => {
    if (!from.readableEnded || !from.writableFinished) to.destroy();
  });
}
