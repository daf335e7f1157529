/** What the files say about how an app is built and run. */
export interface Detected {
  /** Slug of the framework, such as `nextjs`. */
  readonly framework: string | null;
  readonly packageManager: string | null;
  /** Brings the package manager where the machine lacks it. */
  readonly tools: string | null;
  readonly install: string | null;
  /** Folder that the install fills, and the files that decide with what; none if that cannot be told. */
  readonly installs: { readonly folder: string; readonly decidedBy: readonly string[] } | null;
  readonly build: string | null;
  readonly kind: "static" | "dynamic" | null;
  /** Where static output may be, below the root; `*` stands for one folder. */
  readonly outputs: readonly string[];
  readonly start: string | null;
  /** Files that look like servers, where no start command is known. */
  readonly candidates: readonly string[];
  /** Shell text that every start command needs before it. */
  readonly startPrefix: string;
  readonly port: number | null;
  readonly env: Readonly<Record<string, string>>;
  readonly because: readonly string[];
}

export const nothingDetected: Detected = {
  framework: null,
  packageManager: null,
  tools: null,
  install: null,
  installs: null,
  build: null,
  kind: null,
  outputs: [],
  start: null,
  candidates: [],
  startPrefix: "",
  port: null,
  env: {},
  because: [],
};
