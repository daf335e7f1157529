/**
 * What to run when `npm ci` refuses a lockfile that npm itself wrote a moment ago: it leaves optional packages for other
 * platforms out of the file (they have no version there) and then misses them. `npm install` keeps every version that
 * is locked and adds those. A lockfile that disagrees about a version is refused as before.
 *
 * @see https://github.com/npm/cli/issues/4828
 */
export function insteadOf(
  command: string,
  lines: readonly string[],
): { command: string; because: string } | null {
  if (!command.startsWith("npm ci ")) return null;
  const complaints = lines.filter((line) => /^npm (?:error|ERR!) (?:Missing|Invalid): /.test(line));
  const gaps = complaints.filter((line) => /^npm (?:error|ERR!) Missing: \S+@ from lock file$/.test(line));
  if (gaps.length === 0 || gaps.length < complaints.length) return null;
  return {
    command: command.replace("npm ci ", "npm install "),
    because: `npm left ${gaps.length} optional packages of other platforms out of the lockfile: npm install, which keeps every locked version`,
  };
}
