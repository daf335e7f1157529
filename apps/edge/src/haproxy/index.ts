export { findProgram } from "./process.ts";
export { HaproxyPlane } from "./plane.ts";
export { countLine } from "./traffic.ts";
