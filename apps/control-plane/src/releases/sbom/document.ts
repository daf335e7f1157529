import { Enums, Models, Serialize, Spec } from "@cyclonedx/cyclonedx-library";
import type { Installed, InstalledPackage } from "./installed.ts";

const pypiName = (name: string) => name.toLowerCase().replace(/[-_.]+/g, "-");

/** @see https://github.com/package-url/purl-spec */
export function purlOf({ type, name, version }: InstalledPackage): string {
  const parts = (type === "pypi" ? pypiName(name) : name).split("/").map(encodeURIComponent);
  return `pkg:${type}/${parts.join("/")}@${encodeURIComponent(version)}`;
}

const algorithms: Readonly<Record<string, Enums.HashAlgorithm>> = {
  sha1: Enums.HashAlgorithm["SHA-1"],
  sha256: Enums.HashAlgorithm["SHA-256"],
  sha384: Enums.HashAlgorithm["SHA-384"],
  sha512: Enums.HashAlgorithm["SHA-512"],
};

function addHashes(component: Models.Component, integrity: string): void {
  for (const word of integrity.split(/\s+/)) {
    const [, name, base64] = /^(\w+)-([A-Za-z0-9+/=]+)/.exec(word) ?? [];
    const algorithm = algorithms[name ?? ""];
    if (algorithm && base64) component.hashes.set(algorithm, Buffer.from(base64, "base64").toString("hex"));
  }
}

function componentOf(one: InstalledPackage): Models.Component {
  const [scope, rest] = one.type === "npm" && one.name.startsWith("@") ? one.name.split("/") : [];
  const purl = purlOf(one);
  const component = new Models.Component(Enums.ComponentType.Library, rest ?? one.name, {
    version: one.version,
    purl,
    bomRef: purl,
    ...(scope && rest ? { group: scope } : {}),
  });
  if (one.license) component.licenses.add(new Models.NamedLicense(one.license));
  if (one.type === "npm" && one.integrity) addHashes(component, one.integrity);
  return component;
}

/** Finds a package as its language would: npm from the needing package's folder upwards, Python by name. */
function resolver({ packages }: Installed) {
  const npm = new Map<string, InstalledPackage>();
  const python = new Map<string, InstalledPackage>();
  for (const one of packages)
    if (one.type === "npm") npm.set(one.path, one);
    else python.set(pypiName(one.name), one);
  return (from: { type: string; path: string }, name: string): InstalledPackage | undefined => {
    if (from.type === "pypi") return python.get(pypiName(name));
    const parts = from.path === "" ? [] : from.path.split("/");
    for (let length = parts.length; length >= 0; length--) {
      if (parts[length - 1] === "node_modules") continue;
      const found = npm.get([...parts.slice(0, length), "node_modules", name].join("/"));
      if (found) return found;
    }
    return undefined;
  };
}

/**
 * A bill of materials of what was installed: CycloneDX 1.6. The same packages give the same text: it holds
 * neither a time nor a number of its own.
 */
export function renderSbom(installed: Installed): string {
  const { app, packages } = installed;
  const bom = new Models.Bom();
  const components = new Map<string, Models.Component>();
  for (const one of packages) {
    const purl = purlOf(one);
    if (!components.has(purl)) components.set(purl, componentOf(one));
  }
  const root = new Models.Component(Enums.ComponentType.Application, app.name, {
    bomRef: "app",
    ...(app.version ? { version: app.version } : {}),
  });
  const find = resolver(installed);
  const link = (
    component: Models.Component,
    from: { type: string; path: string },
    names: readonly string[],
  ) => {
    for (const name of names) {
      const found = find(from, name);
      const needed = found ? components.get(purlOf(found)) : undefined;
      if (needed && needed !== component) component.dependencies.add(needed.bomRef);
    }
  };
  for (const one of packages) link(components.get(purlOf(one))!, one, one.needs);
  // pnpm puts links where the app's own packages are; those are found by name only.
  for (const name of app.needs) {
    const found = find({ type: "npm", path: "" }, name) ?? packages.find((one) => one.name === name);
    const needed = found ? components.get(purlOf(found)) : undefined;
    if (needed) root.dependencies.add(needed.bomRef);
  }
  const needed = new Set(packages.flatMap((one) => (one.type === "pypi" ? one.needs.map(pypiName) : [])));
  for (const one of packages)
    if (one.type === "pypi" && !needed.has(pypiName(one.name)))
      root.dependencies.add(components.get(purlOf(one))!.bomRef);
  bom.metadata.component = root;
  bom.metadata.lifecycles.add(Enums.LifecyclePhase.Build);
  for (const component of components.values()) bom.components.add(component);
  const serializer = new Serialize.JsonSerializer(new Serialize.JSON.Normalize.Factory(Spec.Spec1dot6));
  return serializer.serialize(bom, { sortLists: true, space: 0 });
}

export interface DependencyChange {
  readonly name: string;
  readonly from: string | null;
  readonly to: string | null;
}

interface ReadSbom {
  readonly components?: readonly { readonly purl?: string; readonly version?: string }[];
}

/** Which packages came, went, or have another version. */
export function diffSboms(from: ReadSbom | null, to: ReadSbom | null): DependencyChange[] {
  const versions = (sbom: ReadSbom | null) => {
    const found = new Map<string, Set<string>>();
    for (const { purl = "", version = "" } of sbom?.components ?? []) {
      const name = decodeURIComponent(purl.replace(/^pkg:/, "").replace(/@[^@]*$/, ""));
      found.set(name, (found.get(name) ?? new Set()).add(version));
    }
    return new Map([...found].map(([name, all]) => [name, [...all].sort().join(", ")]));
  };
  const [before, after] = [versions(from), versions(to)];
  return [...new Set([...before.keys(), ...after.keys()])]
    .sort()
    .map((name) => ({ name, from: before.get(name) ?? null, to: after.get(name) ?? null }))
    .filter((one) => one.from !== one.to);
}
