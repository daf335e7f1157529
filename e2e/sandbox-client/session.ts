import { commandSteps } from "./steps-commands.ts";
import { fileSteps } from "./steps-files.ts";
import { endSteps, pauseSteps, startSteps } from "./steps-life.ts";
import { networkSteps } from "./steps-network.ts";
import { Scene, type StepResult } from "./step.ts";

/*
 * The client's own package, as its maker published it, with only its domain, its key and the authority to
 * trust in the environment. Prints a result for each step; `lean` runs the short session.
 */
const isLean = process.argv[2] === "lean";
const steps = [...startSteps, ...commandSteps, ...fileSteps, ...networkSteps, ...pauseSteps, ...endSteps];
const scene = new Scene();
const print = (result: StepResult) => process.stdout.write(`${JSON.stringify(result)}\n`);

for (const step of steps) {
  if (isLean && !step.isLean) continue;
  try {
    await step.run(scene);
    print({ name: step.name, error: null });
  } catch (error) {
    print({
      name: step.name,
      error: error instanceof Error ? (error.stack ?? error.message) : String(error),
    });
  }
}
process.exit(0);
