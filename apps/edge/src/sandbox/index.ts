export { findSandbox, type SandboxCall } from "./find.ts";
export {
  agentAccess,
  interpreterAccess,
  interpreterPort,
  isAgentRoute,
  isInterpreterRoute,
  sandboxHeaders,
  trafficAccess,
  type TokenOf,
} from "./access.ts";
export { answerPreflight, answerSandbox, refusalOf, type SandboxRefusal } from "./answers.ts";
