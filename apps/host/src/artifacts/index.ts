export { Artifacts } from "./artifacts.ts";
