/**
 * What a program of the platform sees: the machine's search path and locale, a home of its own, and
 * its settings. Nothing inherited reaches it, so that a variable of the person who starts it (a proxy,
 * PG*, NODE_OPTIONS) changes nothing.
 *
 * @param path the starter's PATH
 */
export function cleanEnvironment(
  path: string,
  home: string,
  settings: Readonly<Record<string, string | number | null>>,
): Record<string, string> {
  const given = Object.entries(settings).filter(
    (entry): entry is [string, string | number] => entry[1] !== null,
  );
  return {
    PATH: path,
    LANG: "C.UTF-8",
    HOME: home,
    ...Object.fromEntries(given.map(([name, value]) => [name, String(value)])),
  };
}
