export { WakeCalls } from "./wake-calls.ts";
