/** `provisioning` covers every way into a box: create, fork, restore. */
const moves = {
  provisioning: ["running", "error", "destroyed"],
  running: ["paused", "provisioning", "error", "destroyed"],
  paused: ["running", "provisioning", "error", "destroyed"],
  error: ["provisioning", "destroyed"],
  destroyed: [],
} as const satisfies Record<string, readonly string[]>;

export type SandboxState = keyof typeof moves;

export function assertMove(from: SandboxState, to: SandboxState): void {
  const allowed: readonly SandboxState[] = moves[from];
  if (!allowed.includes(to)) throw new Error(`sandbox cannot move from ${from} to ${to}`);
}
