export { diffSboms, renderSbom, type DependencyChange } from "./document.ts";
export { listInstalled, parseInstalled, type Installed } from "./installed.ts";
