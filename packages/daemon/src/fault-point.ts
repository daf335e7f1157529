import { unlinkSync } from "node:fs";
import { join } from "node:path";

/**
 * A named point at which a test can kill this very process, as a power cut would: when the folder
 * in `FAULT_POINTS_DIR` holds a file of this name, the file is removed (so that it fires once) and
 * the process sends itself SIGKILL. Without the variable it does nothing.
 */
export function faultPoint(name: string): void {
  const folder = process.env["FAULT_POINTS_DIR"];
  if (!folder) return;
  try {
    unlinkSync(join(folder, name));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
    throw error;
  }
  process.kill(process.pid, "SIGKILL");
  // The signal is delivered asynchronously; nothing after this point may run.
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
}
