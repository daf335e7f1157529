export interface Check {
  readonly name: string;
  /** `no`: a feature is missing. `bad`: nothing works without it. */
  readonly status: "ok" | "no" | "bad";
  readonly seen: string;
  readonly remedy: string | null;
}

export function check(name: string, isGood: boolean, seen: string, remedy: string): Check {
  return { name, status: isGood ? "ok" : "bad", seen, remedy: isGood ? null : remedy };
}
