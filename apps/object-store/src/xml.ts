import { XMLParser } from "fast-xml-parser";
import { S3Error } from "./s3-error.ts";

export type XmlValue = string | number | boolean | undefined | XmlMembers | XmlValue[];
export interface XmlMembers {
  [name: string]: XmlValue;
}

/** Control characters have no form in XML 1.0; clients ask for `encoding-type=url` where keys hold them. */
const escape = (text: string) =>
  text.replace(
    /[&<>"\r\n\t]|[^\u0020-\u{10FFFF}]/gu,
    (character) => `&#x${character.codePointAt(0)!.toString(16)};`,
  );

function element(name: string, value: XmlValue): string {
  if (value === undefined) return "";
  if (Array.isArray(value)) return value.map((item) => element(name, item)).join("");
  if (typeof value !== "object") return `<${name}>${escape(String(value))}</${name}>`;
  return `<${name}>${members(value)}</${name}>`;
}

const members = (value: XmlMembers) =>
  Object.entries(value)
    .map(([name, item]) => element(name, item))
    .join("");

const declaration = `<?xml version="1.0" encoding="UTF-8"?>\n`;

/**
 * An array becomes one element for each item; `undefined` is left out. No namespace, since it would
 * carry a provider's name; clients match the bare elements.
 */
export const renderXml = (root: string, value: XmlMembers): string =>
  `${declaration}<${root}>${members(value)}</${root}>`;

const listed = [
  ...["Object", "Part", "Tag", "CORSRule", "AllowedOrigin", "AllowedMethod", "AllowedHeader"],
  ...["ExposeHeader", "Rule"],
];
const parser = new XMLParser({
  ignoreAttributes: true,
  parseTagValue: false,
  trimValues: false,
  removeNSPrefix: true,
  htmlEntities: true,
  isArray: (name) => listed.includes(name),
});

/** @throws S3Error MalformedXML; also for a document type, which could define entities */
export function parseXml(text: string): unknown {
  if (/<!DOCTYPE/i.test(text)) throw new S3Error("MalformedXML");
  try {
    return parser.parse(text, true);
  } catch (error) {
    throw new S3Error("MalformedXML", undefined, { cause: error });
  }
}
