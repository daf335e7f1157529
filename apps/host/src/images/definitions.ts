/** A root file system that the platform itself defines: packages of the machine's Debian release. */
export interface ImageDefinition {
  readonly name: string;
  readonly packages: readonly string[];
  /** `apt`: a system that can install more packages; `essential`: the least that Debian runs with. */
  readonly variant: "apt" | "essential";
  /** Whether the pinned Node with npm and npx is put into its /usr/local. */
  readonly hasNode: boolean;
  /** Commands that must print something in a box of it. */
  readonly versions: Readonly<Record<string, string>>;
  /** Programs worth naming to users. */
  readonly tools: readonly string[];
  /** Whether it is made without being asked for. */
  readonly isDefault: boolean;
}

/** What every box needs: a shell's usual company, certificates, and the libraries that Node is linked with. */
const base = ["bash", "ca-certificates", "curl", "jq", "less", "libstdc++6", "procps", "psmisc", "tzdata"];
const workshop = [
  ...base,
  ..."build-essential file git git-lfs nano openssh-client patch pkg-config python3-dev python3-pip".split(
    " ",
  ),
  ..."python3-venv python-is-python3 ripgrep rsync sqlite3 sudo tree unzip vim-tiny wget xz-utils zip zstd".split(
    " ",
  ),
];
const nodeVersions = { node: "node --version", npm: "npm --version", npx: "npx --version" };
const workshopTools =
  "node npm npx python3 pip git gcc make curl wget rg jq sqlite3 ssh rsync zip unzip patch".split(" ");
const workshopVersions = {
  ...nodeVersions,
  python: "python3 --version",
  pip: "pip --version",
  git: "git --version",
  gcc: "gcc --version",
  rg: "rg --version",
  sqlite3: "sqlite3 --version",
};

const onTop = (name: string, packages: string, versions: Record<string, string>): ImageDefinition => ({
  name,
  packages: [...workshop, ...packages.split(" ")],
  variant: "apt",
  hasNode: true,
  versions: { ...workshopVersions, ...versions },
  tools: [...workshopTools, ...Object.keys(versions)],
  isDefault: false,
});

export const imageDefinitions: readonly ImageDefinition[] = [
  {
    name: "standard",
    packages: workshop,
    variant: "apt",
    hasNode: true,
    versions: workshopVersions,
    tools: workshopTools,
    isDefault: true,
  },
  {
    name: "node",
    packages: [...base, "git", "openssh-client", "patch", "ripgrep", "unzip", "xz-utils"],
    variant: "apt",
    hasNode: true,
    versions: { ...nodeVersions, git: "git --version" },
    tools: ["node", "npm", "npx", "git", "curl", "rg", "jq"],
    isDefault: true,
  },
  {
    name: "python",
    packages: [
      ...base,
      ..."build-essential git openssh-client patch python-is-python3 python3-dev python3-pip python3-venv ripgrep unzip".split(
        " ",
      ),
    ],
    variant: "apt",
    hasNode: true,
    versions: { ...nodeVersions, python: "python3 --version", pip: "pip --version", git: "git --version" },
    tools: ["python3", "pip", "node", "npm", "git", "gcc", "curl", "rg", "jq"],
    isDefault: true,
  },
  {
    name: "minimal",
    packages: ["libstdc++6"],
    variant: "essential",
    hasNode: false,
    versions: {},
    tools: ["sh", "bash", "perl", "tar"],
    isDefault: false,
  },
  onTop("go", "golang-go", { go: "go version" }),
  onTop("ruby", "ruby-full ruby-bundler libpq-dev libyaml-dev", { ruby: "ruby --version" }),
  onTop("elixir", "elixir erlang-dev inotify-tools", { elixir: "elixir --version" }),
  onTop("python-data", "python3-pandas python3-matplotlib python3-sklearn jupyter-notebook", {
    pandas: "python3 -c 'import pandas; print(pandas.__version__)'",
    jupyter: "jupyter notebook --version",
  }),
  onTop("browser", "chromium fonts-liberation fonts-noto-color-emoji xvfb", {
    chromium: "chromium --version",
  }),
];

export const findDefinition = (name: string): ImageDefinition | undefined =>
  imageDefinitions.find((definition) => definition.name === name);
