export { choicesOf, type Choice } from "./choose.ts";
