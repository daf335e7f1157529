import type { TestContext } from "node:test";
import type { BoxSpec, DriverReport } from "@platform/host-api";
import type { GuestClient } from "@platform/guest-protocol";
import { guestOf, spec, type TestHost } from "../../testing.ts";

/** The driver says that it does not do this; nothing was tried. */
export class Unsupported extends Error {}
/** This machine lacks what it takes to find out. */
export class NotRunHere extends Error {}

/** Something that every driver's boxes do, as seen through the host's public door. */
export interface Capability {
  /** A sentence about behaviour: the test's name, and the row of the matrix. */
  readonly name: string;
  /** @throws Unsupported, NotRunHere, or the assertion that does not hold */
  prove(t: TestContext, scene: Scene): Promise<void>;
}

const mib = 1024 * 1024;

/** Boxes that several capabilities look at; making one costs more than looking at it. */
const standing = {
  /** Ordinary. */
  plain: { hostname: "studio", env: { COLOUR: "green" } },
  /** With little of everything. */
  tight: { limits: { memoryBytes: 384 * mib, cpuMillis: 400, maxProcesses: 40, diskBytes: 96 * mib } },
} satisfies Record<string, Partial<BoxSpec>>;

/** One host with one driver. */
export class Scene {
  readonly host: TestHost;
  readonly report: DriverReport;
  readonly #template: string;
  #made = new Set<string>();

  /** @param template of every box that names no other; a virtual machine cannot share the machine's own system */
  constructor(host: TestHost, report: DriverReport, template = "host") {
    this.#template = template;
    this.host = host;
    this.report = report;
  }

  /** @returns key of a box that lasts as long as the scene */
  async standing(name: keyof typeof standing): Promise<string> {
    const key = `standing-${name}`;
    if (!this.#made.has(key))
      await this.host.client.putBox(key, spec({ template: this.#template, ...standing[name] }));
    this.#made.add(key);
    return key;
  }

  /** A box of this test alone. */
  async fresh(t: TestContext, key: string, changes: Partial<BoxSpec> = {}): Promise<string> {
    t.after(() => this.host.client.deleteBox(key));
    await this.host.client.putBox(key, spec({ template: this.#template, ...changes }));
    return key;
  }

  /** Most time for something that takes `ms` milliseconds at most where the processor runs the box itself. */
  patience(ms: number): number {
    return this.report.level === "microvm-emulated" ? ms * 20 : ms;
  }

  guest(t: TestContext, key: string): GuestClient {
    return guestOf(t, this.host, key);
  }

  /** Output of a shell command in a box, without the white space around it. */
  async run(t: TestContext, key: string, command: string): Promise<string> {
    return (await this.guest(t, key).exec(command)).stdout.trim();
  }

  /** @throws NotRunHere where this machine does not hold boxes to it */
  needs(limit: string): void {
    if (this.report.missing.includes(limit))
      throw new NotRunHere(`this machine gives the driver no ${limit}`);
  }
}
