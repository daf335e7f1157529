import { Sandbox } from "e2b";

/** What steps share: the sandbox that most of them use. */
export class Scene {
  #sandbox: Sandbox | null = null;

  get sandbox(): Sandbox {
    if (!this.#sandbox) throw new Error("the step that creates the sandbox did not succeed");
    return this.#sandbox;
  }

  set sandbox(sandbox: Sandbox) {
    this.#sandbox = sandbox;
  }
}

/** One thing that the client does. `name` says what is expected. */
export interface Step {
  readonly name: string;
  /** Also part of the short session. */
  readonly isLean?: true;
  readonly run: (scene: Scene) => Promise<void>;
}

/** What a session prints for each step, one JSON object a line. */
export interface StepResult {
  readonly name: string;
  readonly error: string | null;
}

/** Polls until `look` is true; a wait has an end here too. */
export async function until(what: string, look: () => Promise<boolean> | boolean): Promise<void> {
  for (let tries = 0; tries < 200; tries++) {
    if (await look()) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`waited in vain for ${what}`);
}

/** The error that the promise rejects with. */
export async function failure(promise: Promise<unknown>): Promise<Error> {
  try {
    await promise;
  } catch (error) {
    return error as Error;
  }
  throw new Error("it did not fail");
}
