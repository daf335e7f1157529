import type { GuestConfig } from "@platform/guest-protocol";

/** The environment that programs in the box get; nothing of the agent's own leaks into it. */
export class Environment {
  readonly home: string;
  /** Where commands start that name no folder. */
  workdir: string;
  proxyPort: number | null;
  #configured: Record<string, string>;
  #initial: Record<string, string> = {};

  constructor(config: Pick<GuestConfig, "home" | "workdir" | "env" | "proxyPort">) {
    this.home = config.home;
    this.workdir = config.workdir;
    this.proxyPort = config.proxyPort;
    this.#configured = config.env;
  }

  configure(env: Record<string, string>): void {
    this.#configured = env;
  }

  /** Variables of POST /init, which come on top of the configured ones. */
  initialise(env: Record<string, string>): void {
    this.#initial = { ...this.#initial, ...env };
  }

  /** What clients set, without the fixed part. */
  get given(): Record<string, string> {
    return { ...this.#configured, ...this.#initial };
  }

  for(call: Record<string, string> = {}): Record<string, string> {
    return {
      PATH: "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
      HOME: this.home,
      USER: "user",
      LOGNAME: "user",
      SHELL: "/bin/bash",
      LANG: "C.UTF-8",
      ...this.#proxyVariables(),
      ...this.given,
      ...call,
    };
  }

  #proxyVariables(): Record<string, string> {
    if (this.proxyPort === null) return {};
    const proxy = `http://127.0.0.1:${this.proxyPort}`;
    const direct = "localhost,127.0.0.1,::1";
    return {
      HTTP_PROXY: proxy,
      HTTPS_PROXY: proxy,
      http_proxy: proxy,
      https_proxy: proxy,
      NO_PROXY: direct,
      no_proxy: direct,
      // Node's own fetch and http obey the variables above only with this.
      NODE_USE_ENV_PROXY: "1",
    };
  }
}
