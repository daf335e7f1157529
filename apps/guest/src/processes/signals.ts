/**
 * Signals every process of a group. Programs are started as leaders of their own group, so that
 * what they started ends with them.
 *
 * @returns false when the group is gone already
 */
export function signalGroup(pid: number, signal: NodeJS.Signals): boolean {
  try {
    process.kill(-pid, signal);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ESRCH") return false;
    throw error;
  }
}
