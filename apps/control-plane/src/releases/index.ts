export { diffReleases, notAsBuilt, releaseSbom, verifyRelease } from "./artifact.ts";
export { createBuildStep } from "./build.ts";
export { cancelBuild } from "./cancel.ts";
export { deploymentEnvironment } from "./environment.ts";
export { migrationsOf } from "./migrations.ts";
export { assertProvenance, examine } from "./provenance.ts";
export { appService, runSpec } from "./run-spec.ts";
export {
  buildView,
  loadBuild,
  loadRelease,
  loadVersion,
  releaseView,
  versionView,
  type BuildRow,
  type ReleaseRow,
  type VersionRow,
} from "./store.ts";
