export { Http2Front } from "./front.ts";
