import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Published } from "@platform/sdk";
import { migrateInSandbox } from "./database-steps.ts";
import { look, until } from "./probes.ts";
import { refute } from "./proof.ts";
import {
  exposePreview,
  proveProduction,
  proveReadWrite,
  proveSwitch,
  publish,
  servedVersion,
  urlAt,
} from "./serving-steps.ts";
import { prepareSandbox, type LinkedDatabase, type Run } from "./workbench.ts";

export interface Served {
  readonly productionUrl: string;
  readonly previewUrl: string;
}

/** From an empty sandbox to a production URL that survives it, and back and forth between two releases. */
export async function runPath(run: Run, database: LinkedDatabase | null): Promise<Served> {
  const { profile, resources, proof } = run;
  const intake = profile.isIntake && database ? database : null;
  const sandbox = await prepareSandbox(run, database, "sandbox");
  if (intake) await migrateInSandbox(run, sandbox.id, intake);
  const previewUrl = await exposePreview(run, sandbox.id);
  if (intake) await proveReadWrite(run, previewUrl, intake, "preview");

  const first = await publish(run, sandbox.id, { deploymentId: null, database, label: "the first publish" });
  await proveProduction(run, first.url, "the production URL answers");
  if (intake) await proveReadWrite(run, first.url, intake, "production");

  await proof.that("the sandbox is gone", async () => {
    await resources.remove("sandbox", sandbox.id);
    const seen = await until("the preview's end", 15_000, async () => {
      const one = await look(urlAt(previewUrl, profile.healthPath));
      return one.status === 200 ? null : one;
    });
    return { value: null, evidence: `its preview URL → ${seen.status}` };
  });
  await proveProduction(run, first.url, "production serves without it");

  const second = await secondRelease(run, database, first);
  await backAndForth(run, first, second);
  return { productionUrl: second.url, previewUrl: second.previewUrl };
}

type Second = Published & {
  readonly url: string;
  readonly previewUrl: string;
  readonly version: Published["version"];
};

/** An edit made in a new sandbox; the example shows its new version number, another app the same bytes. */
async function secondRelease(run: Run, database: LinkedDatabase | null, first: Published): Promise<Second> {
  const { client, profile, proof } = run;
  const sandbox = await prepareSandbox(run, database, "second sandbox");
  const edited = profile.isIntake ? nextVersion(profile.folder) : null;
  if (edited) {
    const path = `${profile.manifest.workdir}/package.json`;
    await client.sandboxes.writeFile(sandbox.id, { path, content: Buffer.from(edited.text) });
  }
  const previewUrl = await exposePreview(run, sandbox.id);
  if (edited) {
    await proof.that("the edit shows in the preview only", async () => {
      const preview = await servedVersion(previewUrl);
      const production = await servedVersion(first.url);
      if (preview !== edited.to || production !== edited.from)
        refute(`preview ${preview}, production ${production}`, "Read the app's log.");
      return { value: null, evidence: `preview says ${preview}, production ${production}` };
    });
  }
  const published = await publish(run, sandbox.id, {
    deploymentId: first.deployment.id,
    database,
    label: "the second publish",
  });
  await proof.that("production serves the second release under the same URL", async () => {
    if (published.url !== first.url)
      refute(`the URL changed to ${published.url}`, "The URL of a deployment must stay.");
    const seen = edited
      ? await until(`version ${edited.to}`, 15_000, async () =>
          (await servedVersion(published.url)) === edited.to ? edited.to : null,
        )
      : "the same bytes";
    const isSame = published.release.artifact_sha256 === first.release.artifact_sha256;
    if (!edited && !isSame)
      refute("the same files gave another digest", "A bundle's digest must depend on its content only.");
    return { value: null, evidence: edited ? `it says ${seen}` : "equal files gave an equal digest" };
  });
  return { ...published, previewUrl };
}

async function backAndForth(run: Run, first: Published, second: Published & { url: string }): Promise<void> {
  const { client, profile } = run;
  const id = first.deployment.id;
  const edited = profile.isIntake ? nextVersion(profile.folder) : null;
  await proveSwitch(run, {
    url: second.url,
    claim: "rollback under load",
    wantedVersion: edited?.from ?? null,
    move: async () => {
      await client.deployments.rollback(id, first.version.id);
      await client.deployments.waitUntilActive(id, first.release.id);
    },
  });
  await proveSwitch(run, {
    url: second.url,
    claim: "promote of the second release again under load",
    wantedVersion: edited?.to ?? null,
    move: async () => {
      await client.deployments.promote(id, second.release.id);
      await client.deployments.waitUntilActive(id, second.release.id);
    },
  });
}

function nextVersion(folder: string): { from: string; to: string; text: string } {
  const content = JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as { version: string };
  const [major = "1", minor = "0"] = content.version.split(".");
  const to = `${major}.${Number(minor) + 1}.0`;
  return { from: content.version, to, text: `${JSON.stringify({ ...content, version: to }, null, 2)}\n` };
}
