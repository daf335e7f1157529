import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { chmod, mkdir, readdir, readFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import type { TestContext } from "node:test";
import { waitFor } from "@platform/daemon";
import { whyNoBuilds } from "../../../images/requirements.ts";
import { startTestHost, whyNoBoxes, type TestHost } from "../../../testing.ts";

const repository = resolve(import.meta.dirname, "../../../../../..");
const toolchain = join(repository, ".toolchain");
const buildTimeoutMs = 900_000;

const isThere = (program: string) => spawnSync(program, ["--version"]).status === 0;

/** Why this machine cannot make what a virtual machine boots, or `null`. */
export async function whyNoMachines(): Promise<string | null> {
  return (
    whyNoBoxes() ??
    (await whyNoBuilds(process.getuid?.() === 0)) ??
    (isThere("gcc") ? null : "gcc is not installed: apt-get install gcc libc6-dev")
  );
}

/** Why QEMU cannot be run here, or `null`. */
export const whyNoQemu = (): string | null =>
  isThere("qemu-system-x86_64")
    ? null
    : "qemu is not installed: apt-get install --no-install-recommends qemu-system-x86";

/** What every machine boots, made once for each state of its sources. */
async function kit(): Promise<string> {
  const guest = join(repository, "apps/guest");
  const hash = createHash("sha256").update(await readFile(join(guest, "build-microvm.ts")));
  const sources = (await readdir(join(guest, "microvm"))).filter((name) => /\.[ch]$/.test(name));
  for (const name of sources.sort()) hash.update(await readFile(join(guest, "microvm", name)));
  const folder = join(toolchain, "microvm", hash.digest("hex").slice(0, 16));
  if (existsSync(join(folder, "microvm.json"))) return folder;
  await mkdir(join(toolchain, "microvm"), { recursive: true });
  const built = spawnSync(process.execPath, [join(guest, "build-microvm.ts"), folder]);
  assert.equal(built.status, 0, String(built.stderr));
  return folder;
}

async function hasTemplate({ client }: TestHost, template: string): Promise<boolean> {
  const found = (await client.images()).images.find(({ name }) => name === template);
  return found !== undefined && found.digest !== null && found.certificate !== null && !found.isOutdated;
}

async function buildTemplate({ client }: TestHost, template: string): Promise<void> {
  await client.putImageBuild(`build-${template}`, { source: { type: "builtin", name: template } });
  const build = await waitFor(
    `the template ${template} to be built`,
    async () => {
      const found = await client.imageBuild(`build-${template}`);
      return found && ["ready", "failed", "cancelled"].includes(found.state) ? found : undefined;
    },
    buildTimeoutMs,
  );
  assert.equal(build.state, "ready", JSON.stringify(build));
}

/**
 * Settings of a host whose boxes are virtual machines of a built-in template. What is made for it stays in
 * the toolchain's folder, so that the next run finds it; what the environment names is taken as it is.
 *
 * @throws AssertionError with the reason of a build that failed
 */
export async function machineSettings(
  t: TestContext,
  template: string,
): Promise<{ MICROVM_DIR: string; IMAGES_DIR: string }> {
  const images = process.env["IMAGES_DIR"] ?? join(toolchain, "test-images");
  const settings = { MICROVM_DIR: process.env["MICROVM_DIR"] ?? (await kit()), IMAGES_DIR: images };
  await mkdir(images, { recursive: true });
  await chmod(images, 0o711);
  const builder = await startTestHost(t, { IMAGES_DIR: images });
  if (!(await hasTemplate(builder, template))) await buildTemplate(builder, template);
  await builder.kill("SIGTERM");
  return settings;
}
