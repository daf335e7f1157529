import { de } from "./de.ts";
import { en } from "./en.ts";
import { es } from "./es.ts";
import { fr } from "./fr.ts";
import type { Texts } from "./texts.ts";

export type { PageText, Texts } from "./texts.ts";

export const languages = { en, es, fr, de } as const satisfies Record<string, Texts>;
export type Language = keyof typeof languages;

export const isLanguage = (text: string): text is Language => Object.hasOwn(languages, text);
