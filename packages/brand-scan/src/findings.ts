import { layersOf, layersOfBytes, type Layer } from "./decode.ts";
import { cookieNames, headerNames, namesIn, variableNames, type Hit } from "./names.ts";

/** One name that somebody can see. */
export interface Finding {
  /** Such as `GET https://app.example/x (accept: text/html, de)`. */
  readonly where: string;
  /** Such as `body`, `header server`, `certificate`. */
  readonly part: string;
  readonly owner: string;
  readonly name: string;
  /** How it was written there, such as `base64`; empty: plainly. */
  readonly encoding: string;
  /** The text around it. */
  readonly evidence: string;
}

const AROUND = 60;

/** Machine's own names and folders, which are found beside those of the list. */
export interface Extra {
  readonly owner: string;
  readonly text: string;
}

export class Findings {
  readonly all: Finding[] = [];
  readonly #known = new Set<string>();
  readonly #extra: readonly Extra[];
  /** Texts that were looked at. */
  looked = 0;

  constructor(extra: readonly Extra[] = []) {
    this.#extra = extra.filter(({ text }) => text.length > 3);
  }

  text(where: string, part: string, text: string): void {
    this.looked++;
    this.#layers(where, part, layersOf(text));
  }

  /** A program's own text: libraries in it name themselves, which says nothing about who runs what. */
  program(where: string, text: string): void {
    const before = this.all.length;
    this.text(where, "program", text);
    const found = this.all.splice(before);
    this.all.push(...found.filter(({ owner }) => owner !== "runtime"));
  }

  bytes(where: string, part: string, bytes: Buffer): void {
    this.looked++;
    this.#layers(where, part, layersOfBytes(bytes));
  }

  header(where: string, name: string, value: string): void {
    for (const hit of headerNames(name)) this.#add(where, "header name", "", hit, `${name}: ${value}`);
    this.text(where, `header ${name.toLowerCase()}`, value);
    if (name.toLowerCase() !== "set-cookie") return;
    const cookie = value.split("=", 1)[0]!.trim();
    for (const hit of cookieNames(cookie)) this.#add(where, "cookie name", "", hit, value);
  }

  /** Names and values, as a program in a box sees them. */
  variables(where: string, variables: Readonly<Record<string, string>>): void {
    for (const [name, value] of Object.entries(variables)) {
      for (const hit of variableNames(name)) this.#add(where, "variable name", "", hit, name);
      this.text(where, `variable ${name}`, `${name} ${value}`);
    }
  }

  #layers(where: string, part: string, layers: Iterable<Layer>): void {
    for (const { text, encoding } of layers) {
      for (const hit of namesIn(text)) this.#add(where, part, encoding, hit, text);
      for (const { owner, text: name } of this.#extra) {
        const at = text.indexOf(name);
        if (at >= 0) this.#add(where, part, encoding, { owner, name, at }, text);
      }
    }
  }

  /** The first sight of a name in a place stands for all others there. */
  #add(where: string, part: string, encoding: string, hit: Hit, text: string): void {
    const key = JSON.stringify([where, part, hit.owner, hit.name.toLowerCase()]);
    if (this.#known.has(key)) return;
    this.#known.add(key);
    const from = Math.max(0, hit.at - AROUND);
    const evidence = text.slice(from, hit.at + hit.name.length + AROUND).replace(/[^\P{Cc}]/gu, "·");
    this.all.push({ where, part, owner: hit.owner, name: hit.name, encoding, evidence });
  }
}
