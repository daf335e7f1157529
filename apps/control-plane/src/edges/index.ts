export { acknowledged, forgetEdges, inForce, witnesses, type InForce } from "./acknowledge.ts";
export {
  lockRoutes,
  pointPreviews,
  putRoute,
  removeRoutes,
  routePreviews,
  type NewRoute,
} from "./routes-table.ts";
export { assertEdge, registerEdgeRoutes, trimRequestLogs } from "./internal-routes.ts";
