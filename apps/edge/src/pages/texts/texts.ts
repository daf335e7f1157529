import type { PageKind } from "../kinds.ts";

export interface PageText {
  readonly title: string;
  /** For the visitor: what is the matter. */
  readonly message: string;
  /** What to do next. */
  readonly action: string;
}

/** All that pages say in one language. */
export interface Texts {
  readonly pages: Readonly<Record<PageKind, PageText>>;
  /** Beside the number that names the request. */
  readonly request: string;
  readonly support: (name: string) => string;
  readonly retry: string;
  readonly waiting: string;
  readonly waited: (seconds: number, limit: number) => string;
  readonly gaveUp: (seconds: number) => string;
  /** Name of the links at the foot of the page. */
  readonly links: string;
}
