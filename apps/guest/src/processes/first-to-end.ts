import { writeFileSync } from "node:fs";

const file = "/proc/self/oom_score_adj";
/** In thousandths of the box's memory: more than an agent ever takes of it. */
const readiness = 600;

function setReadiness(value: number): boolean {
  try {
    writeFileSync(file, String(value));
    return true;
  } catch {
    return false; // Where the kernel has no such choice, it makes its own.
  }
}

/**
 * Of what `start` starts, the kernel ends something before it ends this agent when the box has no memory left. It
 * would else take the agent for what a program holds without having it mapped: files in memory, unread pipes.
 *
 * @param start must start its process before it returns
 */
export function firstToEnd<T>(start: () => T): T {
  const isSet = setReadiness(readiness);
  try {
    return start();
  } finally {
    if (isSet) setReadiness(0);
  }
}
