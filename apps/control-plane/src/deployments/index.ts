export { configurationChanged, deploymentHandlers } from "./routes.ts";
export { deploymentObserveHandlers, servingInstance } from "./observe.ts";
export { createDeploymentStep } from "./reconciler.ts";
export { ownDeployment, loadDeployment, type DeploymentRow } from "./store.ts";
export { tidyUploads, uploadHandlers } from "./uploads/index.ts";
export { rolloutHandlers } from "./rollout-routes.ts";
export { collectReleases } from "./retention.ts";
export { wakeDeployment } from "./sleep.ts";
export { trimInstanceLogs } from "./stop.ts";
