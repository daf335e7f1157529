export { sendPage, renderPage, languageFor } from "./send.ts";
export { negotiate, acceptsHtml } from "./negotiate.ts";
export { pageKinds, type PageKind } from "./kinds.ts";
export { Waits, type Wait } from "./waits.ts";
