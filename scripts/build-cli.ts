// `npm run build:cli -- MANIFEST [--out FILE]`: the command line as a tenant's own product, in one file.
import { chmodSync, mkdirSync, readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { build, type Plugin } from "esbuild";
import { parse } from "yaml";
import { z } from "zod";

const Https = z.url({ protocol: /^https$/ });

/** What a tenant says about its command line. */
const Manifest = z
  .strictObject({
    name: z.string().min(1).max(60),
    command: z.string().regex(/^[a-z][a-z0-9-]{1,30}$/, "lower case letters, digits and hyphens"),
    version: z
      .string()
      .regex(/^\d+\.\d+\.\d+[\w.+-]*$/, "a version such as 1.0.0")
      .default("1.0.0"),
    env_prefix: z
      .string()
      .regex(/^[A-Z][A-Z0-9_]{1,30}$/, "upper case letters, digits and underscores")
      .optional(),
    config_folder: z
      .string()
      .regex(/^[a-z][a-z0-9._-]{1,40}$/, "a folder's name")
      .optional(),
    color: z
      .string()
      .regex(/^#[0-9a-fA-F]{6}$/, "a colour such as #1a73e8")
      .nullable()
      .default(null),
    api_url: Https.nullable().default(null),
    help_url: Https.nullable().default(null),
    support_url: Https.nullable().default(null),
  })
  .transform((given) => ({
    name: given.name,
    command: given.command,
    version: given.version,
    envPrefix: given.env_prefix ?? given.command.toUpperCase().replaceAll("-", "_"),
    configFolder: given.config_folder ?? given.command,
    color: given.color,
    endpoint: given.api_url === null ? null : new URL(given.api_url).origin,
    helpUrl: given.help_url,
    supportUrl: given.support_url,
  }));

const usage = "npm run build:cli -- MANIFEST [--out FILE]";
const cli = join(import.meta.dirname, "..", "apps", "cli", "src");

/** Puts the tenant's brand in the place of ours, and nothing in the place of what only operators do. */
function rebrand(brand: z.output<typeof Manifest>): Plugin {
  const empty: Record<string, string> = {
    "commands.ts": "export function addOperatorCommands() {}",
    "machine-checks.ts": "export const machineChecks = () => [];",
  };
  return {
    name: "rebrand",
    setup(bundler) {
      bundler.onLoad({ filter: /[\\/]apps[\\/]cli[\\/]src[\\/]brand\.json$/ }, () => ({
        contents: JSON.stringify(brand),
        loader: "json",
      }));
      bundler.onLoad({ filter: /[\\/]operator[\\/](?:commands|machine-checks)\.ts$/ }, ({ path }) => ({
        contents: empty[path.split(/[\\/]/).at(-1)!]!,
        loader: "ts",
      }));
    },
  };
}

const { values, positionals } = parseArgs({
  options: { out: { type: "string" } },
  allowPositionals: true,
});
const [file] = positionals;
if (!file || positionals.length !== 1) {
  console.error(usage);
  process.exit(1);
}
const read = Manifest.safeParse(parse(readFileSync(file, "utf8")));
if (!read.success) {
  for (const { path, message } of read.error.issues)
    console.error(`✗ ${file}: ${path.join(".") || "manifest"}: ${message}`);
  process.exit(1);
}
const brand = read.data;
const out = resolve(values.out ?? join("dist", `${brand.command}.mjs`));
mkdirSync(dirname(out), { recursive: true });
await build({
  entryPoints: [join(cli, "main.ts")],
  outfile: out,
  bundle: true,
  platform: "node",
  format: "esm",
  target: "node20.18",
  minify: true,
  legalComments: "none",
  logLevel: "error",
  // A library asks it whether it runs at a provider, whose name would stand in the file.
  define: { navigator: "undefined" },
  plugins: [rebrand(brand)],
  // Some packages still call require for Node's own modules.
  banner: {
    js: 'import{createRequire as __own}from"node:module";const require=__own(import.meta.url);',
  },
});
chmodSync(out, 0o755);
console.log(out);
