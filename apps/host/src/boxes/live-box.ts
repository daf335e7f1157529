import { HostError } from "@platform/host-api";
import type { BoxFolders, SandboxDriver } from "../drivers/driver.ts";
import type { OutboundProxy } from "../outbound/index.ts";
import { networkRateOf, pacesOf, type Paces } from "../http/pace.ts";
import { GuestConnection } from "./guest-connection.ts";
import { Notices } from "./notices.ts";
import { placeOf, toBox, type BoxRecord } from "./record.ts";

/** One box in memory: its record, its driver, and the two sockets across its border. */
export class LiveBox {
  record: BoxRecord;
  readonly driver: SandboxDriver;
  readonly folders: BoxFolders;
  readonly guest: GuestConnection;
  outbound: OutboundProxy | null = null;
  /** Resolves or rejects when the first start is over; all callers of PUT share it. */
  started: Promise<void> | null = null;
  readonly stop = new AbortController();
  readonly notices: Notices;
  /** Shared by all connections of the box, in both directions. */
  readonly paces: Paces;
  /** Connections that callers hold to its ports. */
  tunnels = 0;
  /** When the host last looked at its memory and disk, milliseconds since the epoch. */
  lookedAt = 0;
  #turn: Promise<unknown> = Promise.resolve();

  constructor(record: BoxRecord, driver: SandboxDriver, folders: BoxFolders) {
    this.record = record;
    this.driver = driver;
    this.folders = folders;
    this.guest = new GuestConnection(() => this.dialGuest());
    const { oomKillsAtStart } = (record.driverState ?? {}) as { oomKillsAtStart?: unknown };
    // The groups of a box that is still to be made count from nothing.
    const atStart = record.driverState === null ? 0 : oomKillsAtStart;
    this.notices = new Notices(typeof atStart === "number" ? atStart : null);
    this.paces = pacesOf(networkRateOf(record.spec.limits));
  }

  get view() {
    return { ...toBox(this.record), notices: [...this.notices.list] };
  }

  /** The name by which drivers know the box. */
  get place() {
    return placeOf(this.record);
  }

  dialGuest() {
    return this.driver.dialGuest(this.place, this.record.driverState ?? {}, this.folders);
  }

  /** @throws HostError naming why nothing can be asked of the box now */
  assertRunning(): void {
    const { key, phase, isPaused, failure } = this.record;
    if (phase === "starting" || phase === "waiting")
      throw new HostError("CONFLICT", 409, `Box ${key} is still starting. Retry.`);
    if (phase === "deleting") throw new HostError("NOT_FOUND", 404, `Box ${key} is being deleted.`);
    if (phase === "failed") {
      const why = failure?.detail ?? "It does not run.";
      throw new HostError("BOX_FAILED", 409, `Box ${key} failed: ${why} Delete and create it.`, { failure });
    }
    if (isPaused) throw new HostError("BOX_PAUSED", 409, `Box ${key} is paused. Resume it first.`);
  }

  /** Runs changes of this box one after the other. */
  inTurn<T>(work: () => Promise<T>): Promise<T> {
    const next = this.#turn.then(work, work);
    this.#turn = next.catch(() => undefined); // The caller gets the failure; the next in line does not.
    return next;
  }

  async closeSockets(): Promise<void> {
    this.guest.close();
    await this.outbound?.close();
    this.outbound = null;
  }
}
