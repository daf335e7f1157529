import { join } from "node:path";
import type { Published } from "@platform/sdk";
import { hashRelease } from "./artifact-check.ts";
import { hasRow } from "./database-steps.ts";
import { expectStatus, look, openLive, until } from "./probes.ts";
import { refute } from "./proof.ts";
import { SteadyLoad } from "./steady-load.ts";
import type { LinkedDatabase, Run } from "./workbench.ts";

const versionPattern = /"version":"([^"]+)"/;

/** Starts the app in the sandbox and proves its preview by its public host name. */
export async function exposePreview(run: Run, sandboxId: string): Promise<string> {
  const { client, profile, proof } = run;
  return proof.that("the preview URL answers", async () => {
    await client.sandboxes.startService(sandboxId, {
      name: "web",
      command: profile.preview,
      cwd: profile.manifest.workdir,
      env: { PORT: String(profile.port), HOST: "0.0.0.0" },
    });
    const { url } = await client.sandboxes.expose(sandboxId, profile.port);
    const target = urlAt(url, profile.healthPath);
    const seen = await look(target);
    expectStatus(seen, 200, target);
    return { value: url, evidence: `GET ${target} → 200${excerpt(seen.text)}` };
  });
}

/** Writes through the URL; the row is looked for in the database itself and, with `live`, on the socket. */
export async function proveReadWrite(
  run: Run,
  url: string,
  database: LinkedDatabase,
  where: string,
): Promise<void> {
  const patient = `Patient via ${where} ${run.suffix}`;
  await run.proof.that(`${where} stores a form and pushes it live`, async () => {
    const live = await openLive(urlAt(url, "/live"));
    try {
      await live.next((message) => message["type"] === "hello", 5_000);
      const form = { patient_name: patient, date_of_birth: "1990-05-17", reason: "Check-up", phone: "" };
      expectStatus(await look(urlAt(url, "/intake"), { method: "POST", form }), 303, urlAt(url, "/intake"));
      if (!(await hasRow(database, patient)))
        refute("no such row is in the database", "Check which database the app uses.");
      await live.next(
        (message) => message["type"] === "intake" && JSON.stringify(message["row"]).includes(patient),
        10_000,
      );
      const list = await look(urlAt(url, "/intakes"));
      if (!list.text.includes(patient)) refute("the list page does not show it", "Read the app's log.");
      return { value: null, evidence: "row seen by own login, on the WebSocket and on the list page" };
    } finally {
      live.close();
    }
  });
  await run.proof.that(`${where} refuses a wrong form`, async () => {
    const seen = await look(urlAt(url, "/intake"), {
      method: "POST",
      form: { patient_name: "", date_of_birth: "tomorrow", reason: "" },
    });
    expectStatus(seen, 422, urlAt(url, "/intake"));
    return {
      value: null,
      evidence: `422 with ${seen.text.split('class="error"').length - 2} field messages`,
    };
  });
}

export async function publish(
  run: Run,
  sandboxId: string,
  options: { deploymentId: string | null; database: LinkedDatabase | null; label: string },
): Promise<Published & { readonly url: string }> {
  const { client, profile, proof, resources } = run;
  const { manifest } = profile;
  return proof.that(`${options.label} is an immutable release`, async () => {
    const published = await client.sandboxes.publish(sandboxId, {
      ...(options.deploymentId
        ? { deployment_id: options.deploymentId }
        : { name: `${profile.name}-${run.suffix}` }),
      deployment_type: profile.kind,
      ...(profile.install ? { install_command: profile.install } : {}),
      ...(profile.build ? { build_command: profile.build } : {}),
      ...(manifest.output ? { output_path: manifest.output } : {}),
      ...(profile.start
        ? { run_command: profile.start, port: profile.port, health_check_path: profile.healthPath }
        : {}),
      ...(options.database ? { database: { existing_database_id: options.database.id } } : {}),
      promote: true,
    });
    if (!options.deploymentId) resources.made("deployment", published.deployment.id);
    const deployment = await client.deployments.waitUntilActive(
      published.deployment.id,
      published.release.id,
    );
    const release = await client.deployments.release(deployment.id, published.release.id);
    const digest = release.artifact_sha256;
    if (!digest) return refute("the release has no digest", "Read the control plane's log.");
    const hashed = await hashRelease(run.artifactsDir, digest);
    const signed = await client.deployments.provenance(deployment.id, release.id);
    const subject = signed.statement?.subject[0]?.digest.sha256;
    if (!signed.verified || subject !== digest)
      refute(`its signed statement does not hold: ${signed.reason ?? subject}`, "Publish again.");
    const preflight = profile.start ? await preflightOf(run, deployment.id) : "files only: nothing to boot";
    const value = { ...published, deployment, release, url: deployment.public_url ?? published.url };
    return {
      value,
      evidence: `${hashed.digest.slice(0, 19)}…: ${hashed.blobs} blobs, ${hashed.sizeBytes} bytes hashed again on disk, equal; signed provenance verified; preflight in a clean sandbox: ${preflight}`,
    };
  });
}

/** What the newest build's log says of the boot without the source. @throws ProofError when it says nothing */
async function preflightOf({ client }: Run, deploymentId: string): Promise<string> {
  const builds = `/deployments/${encodeURIComponent(deploymentId)}/builds`;
  const [build] = await client.http.json<{ id: string }[]>("GET", builds);
  for await (const { data } of client.http.events("GET", `${builds}/${build?.id}/logs`)) {
    const seen = /preflight: (port \d+ answers \d+ on [^\s"\\]+)/.exec(data)?.[1];
    if (seen) return seen;
  }
  return refute("its build log has no preflight", "Read the build's log.");
}

export async function proveProduction(run: Run, url: string, claim: string): Promise<void> {
  const target = urlAt(url, run.profile.healthPath);
  await run.proof.that(claim, async () => {
    const seen = await until("a 200", 15_000, async () => {
      const one = await look(target);
      expectStatus(one, 200, target);
      return one;
    });
    return { value: null, evidence: `GET ${target} → 200${excerpt(seen.text)}` };
  });
}

/** @returns the version that the app itself reports, or null when it reports none */
export async function servedVersion(url: string): Promise<string | null> {
  const seen = await look(urlAt(url, "/version"));
  return seen.status === 200 ? (versionPattern.exec(seen.text)?.[1] ?? null) : null;
}

/** Moves traffic while requests run; nothing may fail, and the new version must be seen from outside. */
export async function proveSwitch(
  run: Run,
  options: { url: string; claim: string; wantedVersion: string | null; move: () => Promise<unknown> },
): Promise<void> {
  const path = options.wantedVersion === null ? run.profile.healthPath : "/version";
  await run.proof.that(options.claim, async () => {
    const startedAt = performance.now();
    let firstSeenMs: number | null = null;
    const load = new SteadyLoad(urlAt(options.url, path), (text) => {
      const isWanted =
        options.wantedVersion !== null && versionPattern.exec(text)?.[1] === options.wantedVersion;
      if (isWanted) firstSeenMs ??= performance.now() - startedAt;
    });
    let report;
    try {
      await options.move();
      if (options.wantedVersion !== null) {
        await until(`version ${options.wantedVersion}`, 30_000, async () =>
          (await servedVersion(options.url)) === options.wantedVersion ? true : null,
        );
      }
      // Whatever drains does so under these.
      await load.untilFurther(100, 10_000);
    } finally {
      report = await load.stop();
    }
    if (report.failures.length > 0) {
      refute(
        `${report.failures.length} of ${report.requests} requests failed: ${[...new Set(report.failures)].slice(0, 3).join("; ")}`,
        "Read the gateway's log.",
      );
    }
    const seen =
      firstSeenMs === null
        ? ""
        : `version ${options.wantedVersion} first seen after ${Math.round(firstSeenMs)} ms, `;
    return {
      value: null,
      evidence: `${seen}0 of ${report.requests} requests failed, slowest ${Math.round(report.slowestMs)} ms`,
    };
  });
}

export const urlAt = (base: string, path: string): string =>
  new URL(path, base.endsWith("/") ? base : `${base}/`).href;
export const artifactsDirOf = (dataDir: string): string => join(dataDir, "host", "artifacts");

function excerpt(text: string): string {
  const line = text.trim();
  return line.startsWith("{") && line.length < 120 ? ` ${line}` : `, ${Buffer.byteLength(text)} bytes`;
}
