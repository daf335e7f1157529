export { choicesOf, type Choice } from "./choose.ts";
export { Refusals } from "./refusals.ts";
