import type { OwnPlatform } from "../own-platform.ts";
import { previewProject } from "./preview.ts";
import type { Project } from "./projects.ts";

export interface Outcome {
  readonly ok: boolean;
  /** What the platform's refusal or the page said. */
  readonly note: string;
  readonly kind: string | null;
  readonly framework: string | null;
  readonly packageManager: string | null;
  readonly seconds: number;
}

async function run(platform: OwnPlatform, id: string, command: string): Promise<void> {
  const result = await platform.must("POST", `/sandboxes/${id}/exec`, { command, timeout: 300 });
  if (result["exit_code"] !== 0)
    throw new Error(`${command.slice(0, 80)}: ${String(result["stderr"]).slice(-600)}`);
}

/** Removes what one project left, whatever became of it. */
async function remove(platform: OwnPlatform, sandboxId: string, deploymentId: string | null): Promise<void> {
  await platform.api("DELETE", `/sandboxes/${sandboxId}`);
  if (deploymentId) await platform.api("DELETE", `/deployments/${deploymentId}`);
}

/** Writes or generates the app in a sandbox, opens its preview, publishes it, and asks its public URL for the mark. */
export async function publishProject(platform: OwnPlatform, project: Project): Promise<Outcome> {
  const startedAt = performance.now();
  const mark = `mark-${Math.random().toString(36).slice(2, 10)}`;
  const marked = (text: string) => text.replaceAll("MARK", mark);
  const files = Object.entries(project.files ?? {}).map(([path, text]) => [path, marked(text)]);
  const id = await platform.sandbox(`corpus-${mark}`, Object.fromEntries(files) as Record<string, string>);
  let deploymentId: string | null = null;
  const done = (ok: boolean, note: string, plan: Record<string, unknown> = {}): Outcome => ({
    ...{
      ok,
      note: note.replaceAll(mark, "MARK").slice(0, 300),
      seconds: Math.round((performance.now() - startedAt) / 1000),
    },
    kind: (plan["kind"] as string | undefined) ?? null,
    framework: (plan["framework"] as string | undefined) ?? null,
    packageManager: (plan["packageManager"] as string | undefined) ?? null,
  });
  try {
    for (const command of project.generate ?? []) await run(platform, id, marked(command));
    await previewProject(platform, id, project, marked);
    const answer = await platform.api("POST", `/sandboxes/${id}/publish`, { name: mark, ...project.publish });
    const error = answer.body["error"] as
      { code: string; message: string; details: Record<string, unknown> } | undefined;
    deploymentId = String(answer.body["deployment_id"] ?? error?.details["deployment_id"] ?? "") || null;
    if (answer.status >= 300)
      return done(
        false,
        `${error?.code}: ${error?.message} ${JSON.stringify(error?.details["log_tail"] ?? "").slice(-400)}`,
      );
    const builds = await platform.api("GET", `/deployments/${deploymentId}/builds`);
    const [build] = builds.body["data"] as { plan: Record<string, unknown> }[];
    const page = await platform.visit(new URL(project.path ?? "/", String(answer.body["url"])).href);
    const isRight = page.status === 200 && page.text.includes(mark) && build?.plan["kind"] === project.kind;
    return done(
      isRight,
      isRight ? "" : `${page.status} ${build?.plan["kind"]}: ${page.text.slice(0, 150)}`,
      build?.plan,
    );
  } catch (error) {
    return done(false, (error as Error).message);
  } finally {
    await remove(platform, id, deploymentId);
  }
}
