export { assertAllowed, assertWithin, isLimit, subjectOf, type Subject } from "./policies.ts";
export { policyHandlers } from "./routes.ts";
