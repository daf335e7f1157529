export { liveSandbox, guestProblem, settledSandbox, wake } from "./access.ts";
export { destroySandbox, pauseOne as pauseSandbox, sandboxHandlers } from "./routes.ts";
export { sandboxEnvHandlers, syncEnvironment } from "./env-routes.ts";
export { execHandlers } from "./exec.ts";
export { fileHandlers } from "./files.ts";
export { serviceHandlers } from "./services.ts";
export { sandboxObserveHandlers } from "./observe.ts";
export { templateStartHandlers } from "./template-start.ts";
export { createSandboxStep } from "./reconciler.ts";
export { createSandbox, randomSuffix } from "./create.ts";
export { linkedDatabases, listenHints, runtimeEnvironment, type Linked } from "./environment.ts";
export { ownEnvironment } from "./box-spec.ts";
export {
  loadSandbox,
  ownSandbox,
  want as wantSandbox,
  type SandboxContent,
  type SandboxRow,
} from "./store.ts";
