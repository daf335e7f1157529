export { configurationChanged, deploymentHandlers } from "./routes.ts";
export { deploymentObserveHandlers, servingInstance } from "./observe.ts";
export { createDeploymentStep } from "./reconciler.ts";
export { ownDeployment, loadDeployment, type DeploymentRow } from "./store.ts";
export { releaseArtifactHandlers } from "./release-artifacts.ts";
export { tidyUploads, uploadHandlers } from "./uploads/index.ts";
