/** The only place that knows the product's name. Everything else derives from it. */
export const brand = { name: "miosa", command: "miosa" } as const;

export const envPrefix: string = brand.command.toUpperCase();
/** Below XDG_CONFIG_HOME or ~/.config. */
export const configFolder: string = brand.command;
export const manifestNames: readonly string[] = ["yml", "yaml", "json"].map(
  (ending) => `${brand.command}.app.${ending}`,
);
/** Ties an app's folder to its deployment. */
export const linkFile: string = `.${brand.command}.json`;
export const stateFolder: string = `.${brand.command}`;
