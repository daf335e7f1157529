import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ImageError } from "./image-error.ts";
import { runOrThrow, runProgram, type OnLine } from "./run-program.ts";

/**
 * Point in time to which everything newer is set back, seconds since the epoch: the same packages give
 * the same bytes, whenever they are installed.
 *
 * @see https://reproducible-builds.org/specs/source-date-epoch/
 */
export const sourceDateEpoch = 1_700_000_000;

export interface DebianSystem {
  /** Such as `bookworm`. */
  readonly codename: string;
  /** Lines of sources.list: the machine's own mirror, its release and that release's updates only. */
  readonly sources: readonly string[];
  /** The machine's own settings of its way to the mirror. */
  readonly options: readonly string[];
}

const forwardedOptions = /^Acquire::(http::Proxy|https::Proxy|Check-Valid-Until|Check-Date) /;

/** @throws ImageError `unsupported_system` unless this machine runs Debian with sources of its own */
export async function readSystem(signal: AbortSignal): Promise<DebianSystem> {
  const text = await readFile("/etc/os-release", "utf8").catch(() => "");
  const release = new Map(
    text.split("\n").map((line) => line.replaceAll('"', "").split("=", 2) as [string, string]),
  );
  const codename = release.get("VERSION_CODENAME");
  if (release.get("ID") !== "debian" || !codename) {
    throw new ImageError(
      "unsupported_system",
      "Images are built of the packages of a Debian machine, and this one does not run Debian. " +
        "Build them on a Debian machine and share its images folder.",
    );
  }
  const targets = await runOrThrow(
    "apt-get",
    ["indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"],
    { signal },
  );
  const sources = debianSources(targets, codename);
  if (sources.length === 0) {
    throw new ImageError(
      "unsupported_system",
      `This machine's package sources name no mirror of ${codename}. Add one to /etc/apt/sources.list.`,
    );
  }
  const config = await runOrThrow("apt-config", ["dump"], { signal });
  const options = config.split("\n").filter((line) => forwardedOptions.test(line));
  return { codename, sources, options };
}

/** Only the release itself, its updates and its security updates: never another suite. */
export function debianSources(targets: string, codename: string): string[] {
  const suites = new Set([codename, `${codename}-updates`, `${codename}-security`]);
  const lines = targets.split("\n").flatMap((line) => {
    const [uri, suite, component] = line.trim().split(" ");
    return uri && suite && component === "main" && suites.has(suite) ? [`deb ${uri} ${suite} main`] : [];
  });
  return [...new Set(lines)].sort();
}

export interface Bootstrap {
  readonly system: DebianSystem;
  readonly packages: readonly string[];
  /** `apt`: a system that can install more packages; `essential`: the least that Debian runs with. */
  readonly variant: "apt" | "essential";
  /** An absent folder; its parent is private to this build. */
  readonly root: string;
  /** Taken while it runs, so that builds of several daemons do not compete. */
  readonly lockFile: string;
  readonly signal: AbortSignal;
  readonly onLine: OnLine;
}

/** What no box reads: manuals, and texts in other languages. Copyright notes stay. */
const excluded = [
  "path-exclude=/usr/share/man/*",
  "path-exclude=/usr/share/info/*",
  "path-exclude=/usr/share/locale/*",
  "path-include=/usr/share/locale/locale.alias",
  "path-exclude=/usr/share/doc/*",
  "path-include=/usr/share/doc/*/copyright",
];

/**
 * Installs packages into a new folder.
 *
 * @throws ImageError `packages_unavailable` when the mirror or a package of it cannot be had
 */
export async function bootstrap(options: Bootstrap): Promise<void> {
  const { system, packages, root, variant } = options;
  const sourcesFile = join(root, "../sources.list");
  await writeFile(sourcesFile, `${system.sources.join("\n")}\n`);
  const args = [
    ...["--exclusive", options.lockFile, "nice", "-n", "10", "mmdebstrap"],
    ...["--mode=root", "--format=directory", `--variant=${variant}`],
    ...(packages.length > 0 ? [`--include=${packages.toSorted().join(",")}`] : []),
    ...system.options.map((line) => `--aptopt=${line}`),
    ...excluded.map((line) => `--dpkgopt=${line}`),
    ...[system.codename, root, sourcesFile],
  ];
  const last: string[] = [];
  const end = await runProgram("flock", args, {
    signal: options.signal,
    env: { SOURCE_DATE_EPOCH: String(sourceDateEpoch), TMPDIR: join(root, "..") },
    onLine: (stream, line) => {
      last.push(line);
      if (last.length > 20) last.shift();
      options.onLine(stream, line);
    },
  });
  if (end.code === 0) return;
  throw new ImageError(
    "packages_unavailable",
    `The packages could not be installed: ${last.findLast((line) => /^E[: ]/.test(line)) ?? "no reason given"}. ` +
      "Check that this machine reaches its package mirror (apt-get update), then build again.",
    { exitCode: end.code, lastLines: last },
  );
}
