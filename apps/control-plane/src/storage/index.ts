export {
  deleteStoreObject,
  getStoreObject,
  listStoreObjects,
  putStoreBucket,
  putStoreObject,
} from "./object-store.ts";
export { tidyBuckets } from "./lifecycle.ts";
export { storageHandlers } from "./routes.ts";
export { storageRoutes } from "./hostnames.ts";
