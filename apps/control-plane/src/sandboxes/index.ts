export { liveSandbox, guestProblem, sandboxFailed, settledSandbox, wake } from "./access.ts";
export { destroySandbox, filtered, pauseOne as pauseSandbox, sandboxHandlers } from "./routes.ts";
export { nextBoxKey } from "./copies.ts";
export { renewEnvironment, sandboxEnvHandlers, syncEnvironment } from "./env-routes.ts";
export { execHandlers } from "./exec.ts";
export { fileHandlers } from "./files.ts";
export { serviceHandlers } from "./services.ts";
export { sandboxObserveHandlers } from "./observe.ts";
export { templateStartHandlers } from "./template-start.ts";
export { createSandboxStep } from "./reconciler.ts";
export { tellTroubles } from "./troubles.ts";
export { createSandbox, randomSuffix, storeSandboxes } from "./create.ts";
export { absolute, execResultView, isMissingFolder, notStarted } from "./exec.ts";
export { sandboxPath } from "./files.ts";
export { SandboxSampler, trimSamples } from "./sampler.ts";
export { runHandlers } from "./run.ts";
export { linkedDatabases, listenHints, runtimeEnvironment, type Linked } from "./environment.ts";
export { ownEnvironment } from "./box-spec.ts";
export {
  loadSandbox,
  ownSandbox,
  sandboxView,
  want as wantSandbox,
  type SandboxContent,
  type SandboxRow,
} from "./store.ts";
