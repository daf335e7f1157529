import { PlatformError } from "@platform/contract";
import { parseFragment, serialize, type DefaultTreeAdapterTypes } from "parse5";

type Node = DefaultTreeAdapterTypes.Node;
type ParentNode = DefaultTreeAdapterTypes.ParentNode;
type Element = DefaultTreeAdapterTypes.Element;

/** What a page of a tenant's own can name. The edge fills these in, escaped. */
export const pageVariables = [
  ...["title", "message", "action", "detail", "status", "code", "request_id", "retry_seconds"],
  ...["language", "name", "support_url"],
] as const;
const known: ReadonlySet<string> = new Set(pageVariables);

/** Text, structure and pictures; nothing that runs, loads, sends or leaves the page by itself. */
const elements = new Set([
  ...["a", "abbr", "address", "article", "aside", "b", "blockquote", "br", "cite", "code", "dd", "details"],
  ...["div", "dl", "dt", "em", "figcaption", "figure", "footer", "h1", "h2", "h3", "h4", "header", "hr", "i"],
  ...["img", "kbd", "li", "nav", "ol", "p", "pre", "q", "s", "section", "small", "span", "strong", "style"],
  ...["sub", "summary", "sup", "table", "tbody", "td", "th", "thead", "time", "tr", "u", "ul"],
]);
const attributes = new Set([
  ...["alt", "class", "colspan", "datetime", "dir", "height", "href", "id", "lang", "rel", "role", "rowspan"],
  ...["scope", "src", "style", "title", "width"],
]);
const image = /^data:image\/(?:png|jpeg|gif|webp|svg\+xml);base64,[A-Za-z0-9+/=\s]+$/;
const mostDepth = 40;

/**
 * Checks a page that a tenant wrote and returns it as a browser reads it, so that nothing in it can be
 * understood in another way later. What does not belong there is refused by name rather than taken out:
 * a page that silently lost a part would surprise its author.
 *
 * @param field name in the answer to the caller
 * @throws PlatformError VALIDATION_FAILED
 */
export function checkedPage(field: string, html: string): string {
  const refuse = (message: string): never => {
    throw new PlatformError("VALIDATION_FAILED", `${field}: ${message}.`, { errors: { [field]: [message] } });
  };
  const fragment = parseFragment(html);
  withoutComments(fragment);
  for (const node of fragment.childNodes) check(node, refuse, 0);
  const text = serialize(fragment);
  for (const [, name = ""] of text.matchAll(/\{\{([^}]*)\}\}/g))
    if (!known.has(name.trim()))
      refuse(`{{${name.trim()}}} is no variable; there are ${pageVariables.join(", ")}`);
  return text;
}

/** Notes of the author's; nobody else needs them. */
function withoutComments(parent: ParentNode): void {
  parent.childNodes = parent.childNodes.filter((node) => node.nodeName !== "#comment");
  for (const node of parent.childNodes) if ("childNodes" in node) withoutComments(node);
}

function check(node: Node, refuse: (message: string) => never, depth: number): void {
  if (depth > mostDepth) refuse(`is nested deeper than ${mostDepth} elements`);
  if (node.nodeName === "#text") return;
  const element = node as Element;
  const { tagName } = element;
  if (!elements.has(tagName)) refuse(`<${tagName}> cannot stand on a page`);
  for (const { name, value } of element.attrs) {
    if (!attributes.has(name) && !name.startsWith("aria-"))
      refuse(`the attribute ${name} of <${tagName}> cannot stand on a page`);
    checkValue(tagName, name, value, refuse);
  }
  if (tagName === "style") {
    const css = element.childNodes.map((child) => ("value" in child ? child.value : "")).join("");
    checkCss(css, refuse);
    return;
  }
  for (const child of element.childNodes) check(child, refuse, depth + 1);
}

function checkValue(tagName: string, name: string, value: string, refuse: (message: string) => never): void {
  if (name === "src" && !(tagName === "img" && image.test(value)))
    refuse('a picture must be inside the page: src="data:image/png;base64,…"');
  if (name === "href") {
    const isOwn = value === "" || /^(?:#|\/(?![/\\]))[^\s{}]*$/.test(value) || value === "{{support_url}}";
    const isOutside = /^(?:https|mailto):[^\s{}\\]+$/i.test(value) && URL.canParse(value);
    if (tagName !== "a" || !(isOwn || isOutside))
      refuse("a link must begin with https:, mailto: or /, or be {{support_url}}");
  }
  if (name === "style") checkCss(value, refuse);
}

/** Style sheets can load: only the plain parts of them are let in. */
function checkCss(css: string, refuse: (message: string) => never): void {
  if (/[\\<]|\{\{/.test(css)) refuse("a style cannot hold a backslash, an angle bracket or a variable");
  const loads = /@import|@font-face|image-set|expression\s*\(|(?:url|src)\s*\((?!\s*["']?data:image\/)/i.exec(
    css,
  );
  if (loads) refuse(`${loads[0].trim()} cannot stand in a style: pages load nothing`);
}
