import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Client, DatabaseCredentials, ExecResult, Sandbox } from "@platform/sdk";
import type { Platform } from "../up/supervisor.ts";
import type { AppProfile } from "./app-profile.ts";
import type { Proof } from "./proof.ts";
import { refute } from "./proof.ts";
import { pushFolder } from "../push-folder.ts";
import type { Resources } from "./resources.ts";

/** What the steps of the main path share. */
export interface Run {
  readonly client: Client;
  readonly platform: Platform;
  readonly profile: AppProfile;
  readonly proof: Proof;
  readonly resources: Resources;
  readonly artifactsDir: string;
  /** Ends every name of this run, so that two runs never meet. */
  readonly suffix: string;
}

export interface LinkedDatabase {
  readonly id: string;
  readonly credentials: DatabaseCredentials;
}

/** Package registries may be signed by an authority that only the system's store knows. */
const toolEnvironment = { NODE_USE_SYSTEM_CA: "1" };

export async function execOrRefute(
  run: Run,
  sandboxId: string,
  command: string,
  timeout = 600,
): Promise<ExecResult> {
  const { workdir } = run.profile.manifest;
  const result = await run.client.sandboxes.exec(sandboxId, {
    command,
    cwd: workdir,
    timeout,
    env: toolEnvironment,
  });
  if (result.exit_code === 0) return result;
  const tail = `${result.stdout}\n${result.stderr}`.trim().split("\n").slice(-8).join("\n    ");
  const how = result.timed_out ? `took longer than ${timeout} s` : `ended with ${result.exit_code}`;
  return refute(`\`${command}\` ${how}:\n    ${tail}`, "Correct what the output says, or raise the limits.");
}

/** A sandbox with the app's files in it, its database linked and its packages installed. */
export async function prepareSandbox(
  run: Run,
  database: LinkedDatabase | null,
  label: string,
): Promise<Sandbox> {
  const { client, profile, proof, resources } = run;
  const sandbox = await proof.that(
    `${label} answers commands${database ? ", database linked at boot" : ""}`,
    async () => {
      const created = await client.sandboxes.create({
        name: `${profile.name}-${label.replaceAll(" ", "-")}-${run.suffix}`,
        ...(profile.manifest.template ? { template_id: profile.manifest.template } : {}),
        ...(database ? { database: { existing_database_id: database.id } } : {}),
      });
      resources.made("sandbox", created.id);
      const ready = await client.sandboxes.waitUntilReady(created.id);
      const seen = await client.sandboxes.exec(ready.id, {
        command: 'echo "$((6*7)) $(uname -s)"; test -z "$DATABASE_URL" || echo linked',
      });
      const expected = database ? "42 Linux\nlinked" : "42 Linux";
      if (seen.stdout.trim() !== expected)
        refute(`a command printed ${JSON.stringify(seen.stdout + seen.stderr)}`, "Read the host's log.");
      return {
        value: ready,
        evidence: `a shell in it computed ${seen.stdout.trim().replace("\n", ", DATABASE_URL ")}`,
      };
    },
  );
  await proof.that("the app's files arrived", async () => {
    const packed = await pushFolder(client, sandbox.id, profile.folder, {
      target: profile.manifest.workdir,
      excluded: profile.manifest.excluded,
    });
    const name = ["package.json", "index.html"].find((file) => hasFile(join(profile.folder, file)));
    if (name) {
      const back = await client.sandboxes.readFile(sandbox.id, `${profile.manifest.workdir}/${name}`);
      if (!back.equals(readFileSync(join(profile.folder, name))))
        refute(`${name} came back with other bytes`, "Read the host's log.");
    }
    return {
      value: null,
      evidence: `${packed.files} files, ${packed.sizeBytes} bytes${name ? `; ${name} read back equal` : ""}`,
    };
  });
  const { install } = profile;
  if (install !== null) {
    await proof.that(`\`${install}\` in ${label}`, async () => {
      await execOrRefute(run, sandbox.id, install);
      const count = await execOrRefute(run, sandbox.id, "ls -d node_modules/*/ 2>/dev/null | wc -l");
      return { value: null, evidence: `${count.stdout.trim()} packages on its disk` };
    });
  }
  const { build } = profile;
  if (build !== null) {
    await proof.that(`\`${build}\` in ${label}`, async () => {
      await execOrRefute(run, sandbox.id, build);
      return { value: null, evidence: "it ended with 0" };
    });
  }
  return sandbox;
}

function hasFile(path: string): boolean {
  try {
    readFileSync(path);
    return true;
  } catch {
    // Absent or unreadable: then there is nothing to compare.
    return false;
  }
}
