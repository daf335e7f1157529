export { sendPage, renderPage } from "./send.ts";
export { negotiate, acceptsHtml } from "./negotiate.ts";
export { pageKinds, type PageKind } from "./kinds.ts";
