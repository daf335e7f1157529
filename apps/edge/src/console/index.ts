export { captureIn } from "./capture.ts";
export { ConsoleLog } from "./console-log.ts";
export { serveConsole } from "./door.ts";
