export {
  acknowledged,
  lockRoutes,
  pointPreviews,
  putRoute,
  removeRoutes,
  type NewRoute,
} from "./routes-table.ts";
export { registerEdgeRoutes, trimRequestLogs } from "./internal-routes.ts";
