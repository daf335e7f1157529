export { StaticBundles } from "./bundles.ts";
export { serveStatic, type ServeResult } from "./serve.ts";
