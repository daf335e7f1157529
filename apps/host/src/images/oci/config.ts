import type { ImageConfig } from "@platform/host-api";
import type { OciConfig } from "./document.ts";

const plain = /^[\w@%+=:,./-]+$/;
const quote = (word: string) => (plain.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`);

/** Alone, these wait for somebody to type: nothing to be started as a service. */
const interactive =
  /^(?:.*\/)?(?:sh|bash|dash|ash|zsh|fish|node|python[\d.]*|irb|php|ghci|iex|jshell|sqlite3|login)$/;
const shellFlags = new Set(["-i", "-l", "-a", "--login"]);

/** Variables of a container that would break a box. */
const dropped = new Set(["HOME", "HOSTNAME", "USER", "LOGNAME", "TERM", "PWD"]);
const variable = /^[A-Za-z_][A-Za-z0-9_]*$/;

function commandOf(words: readonly string[]): string | null {
  const rest = words.filter((word) => !shellFlags.has(word));
  if (words.length === 0 || (rest.length === 1 && interactive.test(rest[0]!))) return null;
  // The usual entry points of such images end in the command that they were given.
  if (rest.length === 2 && /docker-entrypoint(\.sh)?$/.test(rest[0]!) && interactive.test(rest[1]!))
    return null;
  return `exec ${words.map(quote).join(" ")}`;
}

/** What of an image's configuration a box honours. */
export function configOf({ config }: OciConfig): ImageConfig {
  const env: Record<string, string> = {};
  for (const entry of config?.Env ?? []) {
    const at = entry.indexOf("=");
    const name = at < 0 ? entry : entry.slice(0, at);
    if (variable.test(name) && !dropped.has(name) && !entry.includes("\0"))
      env[name] = at < 0 ? "" : entry.slice(at + 1);
  }
  const workdir = config?.WorkingDir ?? "";
  return {
    env,
    workdir: workdir.startsWith("/") && workdir !== "/" ? workdir : null,
    startCommand: commandOf([...(config?.Entrypoint ?? []), ...(config?.Cmd ?? [])]),
    user: config?.User || null,
    ports: Object.keys(config?.ExposedPorts ?? {}).flatMap((text) => {
      const [, port] = /^(\d{1,5})(?:\/tcp)?$/.exec(text) ?? [];
      return port !== undefined && Number(port) >= 1 && Number(port) <= 65_535 ? [Number(port)] : [];
    }),
  };
}
