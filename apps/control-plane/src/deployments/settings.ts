import { CanaryPlan, PlatformError, PromoteOptions, RunSettings } from "@platform/contract";

/** What the row says, with what it leaves out; a value of the past that is no longer allowed counts as left out. */
export function settingsOf(row: { readonly settings: Record<string, unknown> }): RunSettings {
  const whole = RunSettings.safeParse(row.settings);
  if (whole.success) return whole.data;
  const bad = new Set(whole.error.issues.map(({ path }) => String(path[0])));
  return RunSettings.parse(
    Object.fromEntries(Object.entries(row.settings).filter(([name]) => !bad.has(name))),
  );
}

/** @throws PlatformError VALIDATION_FAILED for a plan whose steps do not rise */
export function canaryOf(options: Pick<PromoteOptions, "canary">): CanaryPlan | null {
  const { canary } = options;
  if (canary === undefined) return null;
  const plan = typeof canary === "number" ? CanaryPlan.parse({ steps: [canary] }) : canary;
  const rises = plan.steps.every((percent, index) => index === 0 || percent > plan.steps[index - 1]!);
  if (rises) return plan;
  throw new PlatformError("VALIDATION_FAILED", "canary.steps have to rise, such as [5, 25, 50].", {
    errors: { "canary.steps": ["have to rise"] },
  });
}

/** Until an instance that gets no new traffic may stop, milliseconds. */
export const drainMs = (settings: RunSettings): number =>
  1000 * Math.max(settings.drain_sec, settings.websocket_drain_sec);
