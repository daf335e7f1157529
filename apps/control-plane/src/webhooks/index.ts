export { eventCatalogue, workspaceCategories } from "./catalogue.ts";
export { webhookHandlers, type WebhookSettings } from "./routes.ts";
export { WebhookWorker, type WebhookWorkerOptions } from "./worker.ts";
