import { chmodSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { brand, configFolder, envPrefix } from "./brand.ts";
import { CliError, exitCodes } from "./failure.ts";

export type Environment = Readonly<Record<string, string | undefined>>;

export interface Settings {
  /** Origin, without /api/v1. */
  readonly endpoint: string;
  readonly apiKey: string;
  readonly endpointFrom: Source;
  readonly apiKeyFrom: Source;
}
type Source = "flag" | "environment" | "file" | "program";

interface Stored {
  readonly endpoint?: string;
  readonly api_key?: string;
}

export const endpointVariable = `${envPrefix}_ENDPOINT`;
export const apiKeyVariable = `${envPrefix}_API_KEY`;

export function configPath(environment: Environment): string {
  const base = environment["XDG_CONFIG_HOME"] || join(environment["HOME"] || homedir(), ".config");
  return join(base, configFolder, "config.json");
}

/**
 * Flags win over the environment, that over the file written by `login`.
 *
 * @throws CliError NOT_LOGGED_IN when endpoint or key is in none of them
 */
export function resolveSettings(environment: Environment, flags: { endpoint?: string }): Settings {
  const stored = readStored(configPath(environment));
  const own = brand.endpoint ? { value: brand.endpoint, from: "program" as const } : null;
  const endpoint = pick(flags.endpoint, environment[endpointVariable], stored.endpoint) ?? own;
  const apiKey = pick(undefined, environment[apiKeyVariable], stored.api_key);
  if (!endpoint || !apiKey) {
    const missing = endpoint ? "key" : "endpoint";
    const remedy = `Run \`${brand.command} login\`, or set ${endpointVariable} and ${apiKeyVariable}.`;
    throw new CliError("NOT_LOGGED_IN", `No ${missing} is known.`, remedy, exitCodes.auth);
  }
  return {
    endpoint: toOrigin(endpoint.value),
    endpointFrom: endpoint.from,
    apiKey: apiKey.value,
    apiKeyFrom: apiKey.from,
  };
}

function pick(flag: string | undefined, variable: string | undefined, stored: string | undefined) {
  if (flag) return { value: flag, from: "flag" as const };
  if (variable) return { value: variable, from: "environment" as const };
  return stored ? { value: stored, from: "file" as const } : null;
}

/** Accepts an origin, also with /api/v1 behind it. */
export function toOrigin(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : null;
  if (!url || !/^https?:$/.test(url.protocol)) {
    throw new CliError(
      "INVALID_ENDPOINT",
      `"${text}" is no http or https address.`,
      "Give it like https://api.example.com",
    );
  }
  return url.origin;
}

export const toBaseUrl = (endpoint: string): string => `${endpoint}/api/v1`;

function readStored(path: string): Stored {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return {};
    throw error;
  }
  try {
    return JSON.parse(text) as Stored;
  } catch (cause) {
    throw new CliError(
      "CONFIG_DAMAGED",
      `${path} is not JSON.`,
      `Remove it and run \`${brand.command} login\`.`,
      1,
      { cause },
    );
  }
}

/** Readable by the owner only, whole or not at all. */
export function storeSettings(path: string, endpoint: string, apiKey: string): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  const text = JSON.stringify({ endpoint, api_key: apiKey }, null, 2);
  writeFileSync(`${path}.new`, `${text}\n`, { mode: 0o600, flush: true });
  chmodSync(`${path}.new`, 0o600);
  renameSync(`${path}.new`, path);
}
