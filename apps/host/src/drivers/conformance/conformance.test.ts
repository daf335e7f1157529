import { test, type TestContext } from "node:test";
import { startTestHost } from "../../testing.ts";
import { NotRunHere, Scene, Unsupported } from "./capability.ts";
import { capabilities } from "./capabilities.ts";
import { machineSettings, whyNoMachines } from "../microvm/testing/prepare.ts";

/** What drivers need that cannot be found by themselves. */
const given = Object.fromEntries(
  ["MICROVM_DIR", "FIRECRACKER_BIN", "JAILER_BIN", "IMAGES_DIR"].flatMap((name) => {
    const value = process.env[name];
    return value === undefined ? [] : [[name, value] as const];
  }),
);
const drivers = (process.env["CONFORMANCE_DRIVERS"] ?? "bubblewrap,gvisor").split(",");

/** It has what the commands of the suite call, and boots in a virtual machine too. */
const builtTemplate = "node";

/** A virtual machine cannot share the machine's own system: its template is built where that is possible. */
async function prepare(t: TestContext, driver: string) {
  const chosen = process.env["CONFORMANCE_TEMPLATE"];
  if (driver !== "qemu" || chosen !== undefined) return { template: chosen ?? "host", settings: given };
  return { template: builtTemplate, settings: { ...given, ...(await machineSettings(t, builtTemplate)) } };
}

for (const driver of drivers) {
  test(`boxes by ${driver}`, async (t) => {
    const whyNot = driver === "qemu" ? await whyNoMachines() : null;
    if (whyNot !== null) return t.skip(`not run here: ${whyNot}`);
    const { template, settings } = await prepare(t, driver);
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
