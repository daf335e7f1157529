import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { TestContext } from "node:test";
import type { OwnPlatform } from "../full/own-platform.ts";
import type { StepResult } from "./step.ts";

/** Where the platform's tenant has the clients' API and the sandboxes. */
export const sandboxDomain = "sandbox.cliniciq.localhost";

/** All that the client is given. */
export const clientEnvironment = (platform: OwnPlatform): Record<string, string> => ({
  E2B_DOMAIN: `${sandboxDomain}:${platform.boot.edge_https_port}`,
  E2B_API_KEY: platform.boot.api_key,
  NODE_EXTRA_CA_CERTS: platform.boot.ca_file,
});

/** Runs the client in a process of its own; every step is a test of its own. */
export async function runSession(
  t: TestContext,
  platform: OwnPlatform,
  mode: "lean" | "full",
): Promise<void> {
  await runProgram(t, platform, ["session.ts", mode], 5);
}

/** The client's template builder, from a template that the platform has. */
export const runTemplateSession = (t: TestContext, platform: OwnPlatform, base: string): Promise<void> =>
  runProgram(t, platform, ["template-session.ts", base], 4);

/** What is built on the client: its maker's code interpreter. */
export const runInterpreterSession = (t: TestContext, platform: OwnPlatform): Promise<void> =>
  runProgram(t, platform, ["interpreter-session.ts"], 7);

async function runProgram(
  t: TestContext,
  platform: OwnPlatform,
  [script = "", ...words]: readonly string[],
  least: number,
): Promise<void> {
  const file = (name: string) => join(import.meta.dirname, name);
  const child = spawn(process.execPath, ["--import", file("resolver.ts"), file(script), ...words], {
    env: clientEnvironment(platform),
    stdio: ["ignore", "pipe", "inherit"],
  });
  const ended = once(child, "exit");
  t.after(() => child.kill("SIGKILL"));
  let steps = 0;
  for await (const line of createInterface({ input: child.stdout })) {
    const { name, error } = JSON.parse(line) as StepResult;
    steps += 1;
    await t.test(name, () => assert.equal(error, null));
  }
  assert.deepEqual(await ended, [0, null]);
  assert.ok(steps >= least, `the session ended after ${steps} steps`);
}
