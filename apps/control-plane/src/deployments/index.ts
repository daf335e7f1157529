export { configurationChanged, deploymentHandlers } from "./routes.ts";
export { deploymentObserveHandlers } from "./observe.ts";
export { createDeploymentStep } from "./reconciler.ts";
export { ownDeployment, loadDeployment, type DeploymentRow } from "./store.ts";
