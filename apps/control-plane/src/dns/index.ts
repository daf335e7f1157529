export { lookUp, followAliases, type Answers } from "./lookup.ts";
