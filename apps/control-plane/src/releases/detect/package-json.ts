import { PlatformError } from "@platform/contract";
import { z } from "zod";

const names = z.record(z.string(), z.string()).catch({}).default({});
const PackageJson = z.looseObject({
  scripts: names,
  dependencies: names,
  devDependencies: names,
  main: z.string().optional().catch(undefined),
  type: z.string().optional().catch(undefined),
  packageManager: z.string().optional().catch(undefined),
});
export type PackageJson = z.output<typeof PackageJson>;

/** @throws PlatformError PACKAGE_JSON_INVALID with the line */
export function parsePackage(json: string | undefined): PackageJson | null {
  if (json === undefined) return null;
  try {
    return PackageJson.parse(JSON.parse(json));
  } catch (cause) {
    const message = cause instanceof SyntaxError ? cause.message : "it is no object";
    const place = /position (\d+)/.exec(message)?.[1];
    const line = place === undefined ? 1 : json.slice(0, Number(place)).split("\n").length;
    throw new PlatformError(
      "PACKAGE_JSON_INVALID",
      `package.json is not valid JSON at line ${line}. Correct it and publish again.`,
      {
        details: {
          step: "plan",
          file: "package.json",
          pointer: "",
          evidence: [`package.json:${line}: ${(json.split("\n")[line - 1] ?? "").trim().slice(0, 200)}`],
          ...trailingComma(json),
        },
        cause,
      },
    );
  }
}

/** Most broken files have one comma too many: the edit that removes it, if that is all. */
function trailingComma(json: string): { patch?: unknown[] } {
  const mended = json.replace(/,(\s*[}\]])/g, "$1");
  try {
    JSON.parse(mended);
    return { patch: [{ type: "write", file: "package.json", content: mended }] };
  } catch {
    return {};
  }
}
