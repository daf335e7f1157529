import own from "./brand.json" with { type: "json" };

/** All that a tenant's command line differs in; `npm run build:cli` puts another one in this one's place. */
export interface CliBrand {
  readonly name: string;
  readonly command: string;
  /** Of environment variables, without the underscore. */
  readonly envPrefix: string;
  /** Below XDG_CONFIG_HOME or ~/.config. */
  readonly configFolder: string;
  readonly version: string;
  /** `#rrggbb` of marks on a terminal; null: the terminal's own. */
  readonly color: string | null;
  /** Origin of the API where nobody says another one. */
  readonly endpoint: string | null;
  readonly helpUrl: string | null;
  readonly supportUrl: string | null;
}

/** Its file is the only place that knows the product's name. Everything else derives from it. */
export const brand: CliBrand = own;

export const envPrefix: string = brand.envPrefix;
export const configFolder: string = brand.configFolder;
export const manifestNames: readonly string[] = ["yml", "yaml", "json"].map(
  (ending) => `${brand.command}.app.${ending}`,
);
/** Ties an app's folder to its deployment. */
export const linkFile: string = `.${brand.command}.json`;
export const stateFolder: string = `.${brand.command}`;
