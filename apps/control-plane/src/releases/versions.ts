import type { GuestClient } from "@platform/guest-protocol";

const nodeName = /^(@[a-z0-9~-][\w.~-]*\/)?[a-z0-9~-][\w.~-]*$/i;
const pythonName = /^[A-Za-z0-9][\w.-]*$/;
const lookMs = 30_000;

/** Modules that are not called like the package that brings them. */
const pythonPackages: Readonly<Record<string, string>> = {
  ...{
    bs4: "beautifulsoup4",
    cv2: "opencv-python-headless",
    dateutil: "python-dateutil",
    dotenv: "python-dotenv",
  },
  ...{ jwt: "PyJWT", PIL: "pillow", psycopg2: "psycopg2-binary", sklearn: "scikit-learn", yaml: "PyYAML" },
  ...{ MySQLdb: "mysqlclient", flask_cors: "flask-cors", flask_sqlalchemy: "flask-sqlalchemy" },
};
/** Commands that are not called like the package that brings them. */
const nodeCommands: Readonly<Record<string, string>> = {
  ...{ tsc: "typescript", nest: "@nestjs/cli", ng: "@angular/cli", "react-router": "@react-router/dev" },
  ...{
    eleventy: "@11ty/eleventy",
    docusaurus: "@docusaurus/core",
    "react-router-serve": "@react-router/serve",
  },
  ...{
    sb: "storybook",
    nitro: "nitropack",
    "vue-cli-service": "@vue/cli-service",
    concurrently: "concurrently",
  },
};

export interface KnownPackage {
  readonly name: string;
  readonly version: string;
}

/** `lodash/fp` and `@scope/name/part` belong to `lodash` and `@scope/name`. */
export const packageOfImport = (specifier: string): string =>
  specifier
    .split("/")
    .slice(0, specifier.startsWith("@") ? 2 : 1)
    .join("/");

/** Asks the registry, from inside the box. @returns null when it knows no such package or does not answer */
export async function newestNode(guest: GuestClient, wanted: string): Promise<KnownPackage | null> {
  const name = nodeCommands[wanted] ?? packageOfImport(wanted);
  if (!nodeName.test(name) || name.length > 214) return null;
  const seen = await guest
    .exec(`npm view --silent '${name}' version`, { cwd: "/tmp", timeoutMs: lookMs })
    .catch(() => null);
  const version = /^\d+\.\d+\.\d+\S*/.exec(seen?.stdout ?? "")?.[0];
  return version ? { name, version } : null;
}

export async function newestPython(guest: GuestClient, wanted: string): Promise<KnownPackage | null> {
  const module = wanted.split(".")[0]!;
  const name = pythonPackages[module] ?? module;
  if (!pythonName.test(name) || name.length > 100) return null;
  const seen = await guest
    .exec(`python3 -m pip index versions --disable-pip-version-check '${name}'`, {
      cwd: "/tmp",
      timeoutMs: lookMs,
    })
    .catch(() => null);
  const version = /\((\d[\w.]*)\)/.exec(seen?.stdout ?? "")?.[1];
  return version ? { name, version } : null;
}
