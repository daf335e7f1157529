export { StaticBundles } from "./bundles.ts";
export { clientCacheHeader, fillHeader, fillName, takeFill } from "./fills.ts";
export { serveStatic, type ServeResult } from "./serve.ts";
