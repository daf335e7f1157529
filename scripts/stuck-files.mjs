// A test file that hangs (a loop that never yields, a handle that stays open after a time-out) would hold Node's
// test runner for ever: its --test-timeout is each test's, not the file's. Such a file is ended here, fails, and the
// others go on.
import { existsSync, readdirSync, readFileSync } from "node:fs";

const EVERY_MS = 5_000;

/** @returns {{ pid: number, parent: number }[]} */
function processes() {
  const all = [];
  for (const entry of readdirSync("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      // Behind the name in parentheses, which may hold anything.
      const [, parent] = readFileSync(`/proc/${entry}/stat`, "utf8").split(") ").at(-1).split(" ");
      all.push({ pid: Number(entry), parent: Number(parent) });
    } catch {
      // Ended meanwhile.
    }
  }
  return all;
}

/** Ends all that a process started and that still belongs to it, not the process. */
export function endTree(pid) {
  const all = processes();
  const doomed = [pid];
  for (const parent of doomed)
    doomed.push(...all.filter((one) => one.parent === parent).map(({ pid }) => pid));
  for (const one of doomed.slice(1)) kill(one);
}

function kill(pid) {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // Ended meanwhile.
  }
}

const commandOf = (pid) => {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
  } catch {
    return [];
  }
};

/**
 * @param runner Node's test runner, with the reporter failed-files.mjs
 * @param environment PROGRESS: the file in which the reporter notes; STUCK_MIN: minutes without a note of a file
 *   that has begun, after which it is ended
 * @returns {() => void} to stop watching
 */
export function watchForStuckFiles(runner, { PROGRESS, STUCK_MIN }) {
  const running = new Map();
  let seen = 0;
  const look = () => {
    const notes = existsSync(PROGRESS) ? readFileSync(PROGRESS, "utf8").split("\n").slice(0, -1) : [];
    for (const { file, name, isOver } of notes.slice(seen).map((line) => JSON.parse(line))) {
      if (isOver) running.delete(file);
      else running.set(file, { at: Date.now(), name });
    }
    seen = notes.length;
    for (const [file, { at, name }] of running) {
      if (Date.now() - at < Number(STUCK_MIN) * 60_000) continue;
      running.delete(file);
      const mine = processes().filter(({ parent }) => parent === runner.pid);
      const stuck = mine.filter(({ pid }) =>
        commandOf(pid).some((word) => word !== "" && file.endsWith(word)),
      );
      console.log(`\nSTUCK: ${file} did nothing for ${STUCK_MIN} minutes after "${name}"; it is ended`);
      for (const { pid } of stuck) {
        endTree(pid);
        kill(pid);
      }
    }
  };
  const timer = setInterval(look, Math.min(EVERY_MS, Number(STUCK_MIN) * 20_000));
  return () => clearInterval(timer);
}
