export { record, recordIn, type NewEvent } from "./record.ts";
export { eventHandlers, streamEvents } from "./stream.ts";
export { platformEventHandlers } from "./platform-events.ts";
