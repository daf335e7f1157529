export { findProgram } from "./process.ts";
export { HaproxyPlane } from "./plane.ts";
export { countLines } from "./traffic.ts";
