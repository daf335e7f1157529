export { uploadHandlers } from "./routes.ts";
export { uploadedSource } from "./store.ts";
export { tidyUploads } from "./tidy.ts";
