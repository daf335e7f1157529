import { test } from "node:test";
import { startTestHost } from "../../testing.ts";
import { NotRunHere, Scene, Unsupported } from "./capability.ts";
import { capabilities } from "./capabilities.ts";

/** What drivers need that cannot be found by themselves. */
const settings = Object.fromEntries(
  ["MICROVM_DIR", "FIRECRACKER_BIN", "JAILER_BIN", "IMAGES_DIR"].flatMap((name) => {
    const value = process.env[name];
    return value === undefined ? [] : [[name, value] as const];
  }),
);
const template = process.env["CONFORMANCE_TEMPLATE"] ?? "host";
const drivers = (process.env["CONFORMANCE_DRIVERS"] ?? "bubblewrap,gvisor").split(",");

for (const driver of drivers) {
  test(`boxes by ${driver}`, async (t) => {
    const host = await startTestHost(t, { driver, ...settings });
    const report = (await host.client.doctor()).drivers.find((entry) => entry.driver === driver);
    if (!report?.usable) return t.skip(`not run here: ${report?.why ?? "there is no such driver"}`);
    const scene = new Scene(host, report, template);
    for (const { name, prove } of capabilities) {
      await t.test(name, async (proof) => {
        try {
          await prove(proof, scene);
        } catch (error) {
          if (error instanceof Unsupported) return proof.skip(`unsupported: ${error.message}`);
          if (error instanceof NotRunHere) return proof.skip(`not run here: ${error.message}`);
          throw error;
        }
      });
    }
  });
}
