import { shortestSecret, type KnownSecret, type SecretFinding } from "@platform/bundle";
import { PlatformError, type ProblemPatch } from "@platform/contract";

/** Frameworks put variables of these names into what the browser loads: they are public by design. */
const publicName =
  /^(NEXT_PUBLIC|VITE|PUBLIC|NUXT_PUBLIC|REACT_APP|GATSBY|EXPO_PUBLIC|VUE_APP|NG_APP|STORYBOOK)_/;
const secretName = /SECRET|TOKEN|PASS|KEY|CREDENTIAL|PRIVATE|AUTH|SALT|DSN|WEBHOOK/i;
/** A longer value is looked for by this many characters of it. */
const longestSent = 4096;
const mostSecrets = 400;

/** A setting rather than a secret: a word, a number, a path, an address without user and password. */
function isOrdinary(value: string): boolean {
  if (/^[A-Za-z]+$|^[\d.:,_-]+$|^\/[\w./-]*$|^[\w.-]+@[\w.-]+$|^[\w-]+(\.[\w-]+)+(:\d+)?$/.test(value))
    return true;
  if (value.startsWith("-----BEGIN CERTIFICATE-----")) return true;
  const url = URL.canParse(value) ? new URL(value) : null;
  return url !== null && url.username === "" && url.password === "" && url.search === "";
}

function passwordIn(value: string): string[] {
  const { password } = URL.canParse(value) ? new URL(value) : { password: "" };
  if (password === "") return [];
  try {
    return [password, decodeURIComponent(password)];
  } catch {
    return [password]; // A lone per cent sign is no encoding.
  }
}

const middle = (value: string) => {
  const from = Math.max(0, (value.length - longestSent) >> 1);
  return value.slice(from, from + longestSent);
};

/** The run-time values that no file of a release may hold. */
export function knownSecrets(env: Readonly<Record<string, string>>): KnownSecret[] {
  const found = new Map<string, KnownSecret>();
  for (const [name, value] of Object.entries(env)) {
    for (const password of passwordIn(value)) found.set(password, { name, value: password });
    if (publicName.test(name) || (!secretName.test(name) && isOrdinary(value))) continue;
    found.set(value, { name, value: middle(value) });
  }
  return [...found.values()].filter(({ value }) => value.length >= shortestSecret).slice(0, mostSecrets);
}

const howEncoded = (finding: SecretFinding) =>
  finding.encoding === "plain" ? "" : `, encoded as ${finding.encoding}`;

/** Notes and backups can go; a source that reads its secret elsewhere has to be written by somebody. */
function removable(findings: readonly SecretFinding[]): ProblemPatch[] | null {
  const files = [...new Set(findings.map(({ file }) => file))];
  const isNote = (file: string) =>
    /(^|\/)(\.env[\w.]*|[^/]+\.(txt|md|log|bak|sql|dump|pem|csv|har))$/.test(file);
  return files.every(isNote) ? files.map((file) => ({ type: "remove", file })) : null;
}

export function secretProblem(findings: readonly SecretFinding[], cause: unknown): PlatformError {
  const first = findings[0]!;
  const names = [...new Set(findings.map(({ name }) => name))];
  return new PlatformError(
    "SECRET_IN_ARTIFACT",
    `${first.file}:${first.line} holds the value of ${first.name}${howEncoded(first)}. Read it from the environment when the app runs (in Node.js process.env.${first.name}), remove the file, or give the variable another value if this one is no secret; then publish again.`,
    {
      details: {
        step: "collect",
        findings,
        pointer: "/env",
        ...(removable(findings) ? { patch: removable(findings) } : {}),
        evidence: findings.map((one) => `${one.file}:${one.line}: ${one.excerpt}${howEncoded(one)}`),
      },
      errors: { env: names.map((name) => `the value of ${name} is in a file of the release`) },
      cause,
    },
  );
}
